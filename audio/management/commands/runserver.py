"""`manage.py runserver`: Daphne, for development.

Daphne's own app would replace the command in the same way. But it loads Twisted into every process that loads Django,
which takes a quarter of the start of a worker or web server.
"""

from daphne.management.commands.runserver import Command

__all__ = ["Command"]
