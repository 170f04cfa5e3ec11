"""Comparisons of what is stored with what should be: verify, survey, reindex."""
