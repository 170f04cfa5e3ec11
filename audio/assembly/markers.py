"""The positions of markers that were placed after chunks (`audio.ingest.markers`).

A window ends at each marker, so the assembler knows the position at which the chunks before the marker end. The times
of a stream in a container are unknown until it is complete. There the marker stores the length of the stream in bytes.
When the recording is finished, the marker gets the position of the first packet after this length.
"""

import uuid
from pathlib import Path

from audio.assembly.assembler import Assembler
from audio.assembly.chunks import PendingChunk
from audio.models import Marker


def cut(window: list[PendingChunk]) -> list[PendingChunk]:
    """Return the beginning of a window, up to the first marker in it."""
    if not window:
        return window
    first, last = window[0].sequence, window[-1].sequence
    within = Marker.objects.filter(session=window[0].session_id, after_sequence__gte=first, after_sequence__lt=last)
    at = within.order_by("after_sequence").values_list("after_sequence", flat=True).first()
    return window if at is None else window[: at - first + 1]


def place(session_id: uuid.UUID, assembler: Assembler) -> None:
    """Set the position, or the length in bytes, of the markers after the last chunk that the assembler has seen."""
    behind = Marker.objects.filter(session=session_id, after_sequence=assembler.looked_to)
    offset = assembler.untimed_bytes
    behind.update(byte_offset=offset, position_seconds=assembler.seconds if offset is None else None)


def place_rest(session_id: uuid.UUID, duration_seconds: float) -> None:
    """Move the markers that have no position yet to the end of the ready recording.

    Computed positions after that end are moved to it too, so that rounding puts no marker outside.
    """
    placed = Marker.objects.filter(session=session_id, after_sequence__isnull=False)
    placed.filter(position_seconds=None).update(position_seconds=duration_seconds)
    placed.filter(position_seconds__gt=duration_seconds).update(position_seconds=duration_seconds)


def place_untimed(session_id: uuid.UUID, assembler: Assembler, master: Path) -> None:
    """Set the positions of markers in a container, whose times are known after the recording was made."""
    waiting = Marker.objects.filter(session=session_id, byte_offset__isnull=False)
    offsets = sorted({marker.byte_offset or 0 for marker in waiting})
    if offsets and assembler.untimed_bytes is not None:
        for offset, seconds in zip(offsets, assembler.moments(offsets, master), strict=True):
            waiting.filter(byte_offset=offset).update(position_seconds=seconds)
