"""Formats of values on pages, by language, in place of those of Django."""
