"""Background work: thin Celery tasks over `audio.build` and the sweeps."""
