"""Statistics of the whole server, which stay cheap with a million sessions and a billion chunks.

Chunks are never counted. Every commit updates counters in the row of its session, and the numbers here are sums of
them. So one pass over the sessions and one over the recordings are enough. Nothing is estimated.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from django.db.models import Count, Min, Sum

from audio.models import AudioConnection, AudioSession, Recording, RecordingState, SessionStatus
from audio.storage import paths


@dataclass(frozen=True, slots=True)
class Statistics:
    """The numbers of one moment.

    `oldest_unfinished_at` is the close of the session that has waited longest for its recording.
    """

    sessions: dict[str, int]
    recordings: dict[str, int]
    chunks: int
    chunk_bytes: int
    recording_bytes: int
    journal_files: int
    journal_bytes: int
    open_connections: int
    oldest_unfinished_at: datetime | None

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return asdict(self)


def collect() -> Statistics:
    """Return the current numbers."""
    by_status = AudioSession.objects.order_by().values_list("status").annotate(Count("pk"))
    sessions = list(by_status.annotate(Sum("total_chunks"), Sum("byte_count")))
    recordings = list(Recording.objects.order_by().values_list("state").annotate(Count("pk"), Sum("size_bytes")))
    journals = [path.stat().st_size for path in paths.journal_paths()]
    return Statistics(
        sessions=dict.fromkeys(SessionStatus.values, 0) | {status: count for status, count, *_ in sessions},
        recordings=dict.fromkeys(RecordingState.values, 0) | {state: count for state, count, _ in recordings},
        chunks=sum(chunks for *_, chunks, _ in sessions),
        chunk_bytes=sum(size_bytes for *_, size_bytes in sessions),
        recording_bytes=sum(size_bytes or 0 for *_, size_bytes in recordings),
        journal_files=len(journals),
        journal_bytes=sum(journals),
        open_connections=AudioConnection.objects.count(),
        oldest_unfinished_at=_oldest_unfinished_at(),
    )


def _oldest_unfinished_at() -> datetime | None:
    """Return the close of the session that has waited longest, from the index of the few unfinished recordings."""
    due = (
        Recording.objects.unfinished()
        .filter(session__status=SessionStatus.COMPLETED, session__total_chunks__gt=0)
        .aggregate(at=Min("session__end_time"))
    )
    at: datetime | None = due["at"]
    return at
