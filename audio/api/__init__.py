"""REST over sessions and recordings."""
