"""Integrity: check the stored data (verify, survey, replay), and restore rows (reindex)."""
