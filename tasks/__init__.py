"""Background work: thin Celery tasks over the product and the sweeps."""
