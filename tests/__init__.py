"""Tests mirror the packages; `tests/services.py` starts PostgreSQL and Redis for them."""
