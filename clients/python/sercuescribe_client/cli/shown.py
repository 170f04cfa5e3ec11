"""Tables for people."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from sercuescribe_client.models import Key, Marker, Session

# It is as wide as its lines if no terminal limits it, so that no program gets a shortened id.
_UNLIMITED_WIDTH = 500


def sessions(found: Sequence[Session]) -> None:
    """Write a table of sessions."""
    rows = [
        (
            session["session_id"],
            moment(session["start_time"]),
            length(session["duration_seconds"]),
            session["status"],
            session["recording"]["state"],
            session["format"],
            session["name"] or "",
        )
        for session in found
    ]
    _write(("session", "started", "length", "status", "recording", "format", "name"), rows)


def session(found: Session) -> None:
    """Write the details of a session."""
    recording = found["recording"]
    rows: dict[str, Any] = {
        "session": found["session_id"],
        "name": found["name"],
        "project": found["project"],
        "status": found["status"],
        "started": moment(found["start_time"]),
        "ended": moment(found["end_time"]),
        "audio": f"{found['format']}, {found['sample_rate']} Hz, {found['channels']} channels",
        "chunks": found["total_chunks"],
        "recording": recording["state"],
        "length": length(found["duration_seconds"]),
        "bytes": recording["size_bytes"],
        "sha256": recording["sha256"],
        "error": recording["error"]["detail"] if recording["error"] else None,
        **{f"metadata {key}": text for key, text in found["metadata"].items()},
    }
    _write(("", ""), [(name, str(value)) for name, value in rows.items() if value not in (None, "")])
    for warning in recording["warnings"]:
        _console().print(f"warning: {warning['detail']} ({warning['code']})", markup=False)


def markers(found: Sequence[Marker]) -> None:
    """Write a table of markers."""
    rows = [(each["marker_id"], length(each["position_seconds"]), each["label"]) for each in found]
    _write(("marker", "position", "label"), rows)


def keys(found: Sequence[Key]) -> None:
    """Write a table of API keys."""
    rows = [
        (
            key["id"],
            key["prefix"],
            key["name"],
            key["project"],
            " ".join(sorted(key["scopes"])),
            "revoked" if key["revoked_at"] else moment(key["expires_at"]) or "valid",
        )
        for key in found
    ]
    _write(("id", "prefix", "name", "project", "scopes", "valid until"), rows)


def moment(text: str | None) -> str:
    """Return a time in the zone of this machine."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else ""


def length(seconds: float | None) -> str:
    """Return a number of seconds as hours, minutes and seconds."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}"


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_UNLIMITED_WIDTH)


def _write(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, show_header=any(heads))
    for number, head in enumerate(heads):
        table.add_column(head, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    _console().print(table)


def _plain(text: str) -> str:
    """Return a text from others without codes that a terminal or Rich would interpret."""
    return "".join(character if character.isprintable() else " " for character in text).replace("[", r"\[")
