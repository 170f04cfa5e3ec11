"""The admin: operators see what is stored and act on sessions, managers see and administer their own projects.

No recorded data can be edited by hand.
"""

from audio.admin import access, log, rows, sessions, webhooks

__all__ = ["access", "log", "rows", "sessions", "webhooks"]
