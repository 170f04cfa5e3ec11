"""The Celery application, for `celery -A sercuescribe worker`. Settings are in `settings.py`, tasks in `tasks`."""

import os

from celery import Celery

from sercuescribe import worker

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sercuescribe.settings")

app = Celery("sercuescribe")
app.config_from_object("django.conf:settings", namespace="CELERY")
worker.install(app)
