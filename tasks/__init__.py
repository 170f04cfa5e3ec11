"""The Celery tasks: thin layers over the product."""
