"""The ingest: it opens and closes sessions, registers connections, and makes chunks durable."""

from audio.database import database_time
from audio.ingest.details import change_details
from audio.ingest.erasures import own_names
from audio.ingest.markers import add_marker, change_marker, delete_marker, described_markers
from audio.ingest.openings import Opening
from audio.ingest.process import Ingest, current, drain
from audio.ingest.sessions import (
    Opened,
    close_if,
    close_session,
    create_session,
    decide_format,
    default_parameters,
    describe,
    drop_if_deserted,
    index_metadata,
    open_connection,
    parse_session_id,
    pause_session,
    remove_process,
    restart_all_ages,
    resume_session,
)
from audio.ingest.types import LiveConnection

__all__ = [
    "Ingest",
    "LiveConnection",
    "Opened",
    "Opening",
    "add_marker",
    "change_details",
    "change_marker",
    "close_if",
    "close_session",
    "create_session",
    "current",
    "database_time",
    "decide_format",
    "default_parameters",
    "delete_marker",
    "describe",
    "described_markers",
    "drain",
    "drop_if_deserted",
    "index_metadata",
    "open_connection",
    "own_names",
    "parse_session_id",
    "pause_session",
    "remove_process",
    "restart_all_ages",
    "resume_session",
]
