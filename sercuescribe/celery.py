"""The Celery application: `celery -A sercuescribe worker`. Its settings are in `settings.py`, its tasks in `tasks`."""

import os

from celery import Celery

from sercuescribe import worker

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sercuescribe.settings")

app = Celery("sercuescribe")
app.config_from_object("django.conf:settings", namespace="CELERY")
worker.install(app)
