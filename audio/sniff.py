"""Pure: what the first bytes of a message say about its container."""
