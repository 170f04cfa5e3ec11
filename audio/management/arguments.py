"""Shared parts of the commands: sessions named by their ids, progress, and lines of JSON."""

import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError
from rest_framework.renderers import JSONRenderer

from audio import ingest
from audio.errors import InvalidSessionIdError
from audio.models import AudioSession

BAD_ARGUMENTS = 2


def find_sessions(texts: Sequence[str]) -> list[AudioSession]:
    """Return the sessions with these ids, in this order, each once.

    Raises:
        CommandError: An id is invalid, or there is no such session (exit code 2).
    """
    return list({text: _find_session(text) for text in texts}.values())


def _find_session(text: str) -> AudioSession:
    try:
        session_id = ingest.parse_session_id(text)
    except InvalidSessionIdError as error:
        raise CommandError(f"{text!r} is not a session id. {error.detail}", returncode=BAD_ARGUMENTS) from None
    session = AudioSession.objects.select_related("recording").filter(pk=session_id).first()
    if session is None:
        raise CommandError(f"There is no session {session_id}.", returncode=BAD_ARGUMENTS)
    return session


def json_line(value: Any) -> str:
    """Return the value as one line of JSON, with times and UUIDs in the form of the REST API."""
    rendered: bytes = JSONRenderer().render(value)
    return rendered.decode()


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as "1 chunk" or "2 chunks"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class Progress:
    """A progress bar on standard error. It is written only to a terminal."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._shown = ""

    def __call__(self, label: str, fraction: float) -> None:
        """Show the progress, from 0 to 1."""
        line = f"{label} [{'#' * int(20 * fraction):20}] {fraction:4.0%}"
        if self._is_shown and line != self._shown:
            self._write(line)

    def clear(self) -> None:
        """Remove the bar, so that other output can be written."""
        if self._shown:
            self._write("")

    def _write(self, line: str) -> None:
        sys.stderr.write(f"\r{line:{len(self._shown)}}" + ("" if line else "\r"))
        sys.stderr.flush()
        self._shown = line
