"""The journals. Every chunk is in a journal before it is acknowledged."""
