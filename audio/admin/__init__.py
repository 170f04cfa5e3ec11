"""What operators see of the stored state, and what they may do to a session. Nothing is changed by hand."""

from audio.admin import log, rows, sessions

__all__ = ["log", "rows", "sessions"]
