"""The journal: the files that every chunk is in before it is acknowledged."""
