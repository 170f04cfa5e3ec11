"""The journals: every chunk is in one of them before it is acknowledged."""
