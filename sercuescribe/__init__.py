"""Wiring: settings, the ASGI application, URLs, Celery and the web server's process. No product logic."""

from sercuescribe.celery import app as celery_app

__all__ = ["celery_app"]
