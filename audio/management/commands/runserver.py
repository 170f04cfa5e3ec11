"""`manage.py runserver`: Daphne, for development.

Daphne's own app would replace the command in the same way, but it loads Twisted into every process that loads Django:
a quarter of the time that a worker or web server takes to start.
"""

from daphne.management.commands.runserver import Command

__all__ = ["Command"]
