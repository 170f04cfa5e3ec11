"""SercueScribe as it runs in production: several web processes, workers and hosts on one PostgreSQL and one Redis."""
