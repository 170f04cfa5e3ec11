"""The pages for people: what this server is and how it is."""
