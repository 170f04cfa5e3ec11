"""The pages for people: the console, the login and the page that records."""
