"""The files in `deploy/`, with the real programs that read them."""
