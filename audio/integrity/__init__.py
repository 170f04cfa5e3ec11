"""Integrity: compare what is stored with what should be (verify, survey, replay), and restore rows (reindex)."""
