#!/usr/bin/env python3
"""Every operator's command: `python manage.py help` lists them; `serve` runs the whole product."""

import os
import sys
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line
from django.db import Error

if __name__ == "__main__":
    # `demo` uses the client, which is a package of its own.
    sys.path.append(str(Path(__file__).resolve().parent / "clients" / "python"))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "sercuescribe.settings")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"SercueScribe can't start: {error}")
    except Error as error:
        from audio.management import installation  # needs the settings

        sys.exit(installation.sentence(error))
