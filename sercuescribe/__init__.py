"""The wiring of the product: settings, Celery, ASGI, URLs and the process of the web server.

An invalid setting ends every program of the product here, with a sentence that explains it.
"""

import sys

from django.core.exceptions import ImproperlyConfigured

# The only place of the version, before the settings that use it. docs/releasing.md says how it changes.
__version__ = "0.1.0"

try:
    from sercuescribe import settings as settings
except ImproperlyConfigured as error:
    sys.exit(f"SercueScribe can't start: {error}")

from sercuescribe.celery import app as celery_app

__all__ = ["__version__", "celery_app"]
