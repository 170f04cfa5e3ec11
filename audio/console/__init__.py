"""The pages for people: the status of this server, and what it records."""
