"""The REST API of sessions, recordings and background tasks."""
