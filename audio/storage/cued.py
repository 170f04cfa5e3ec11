"""Downloads of WAV files with the markers of their session as cue points.

The file and its SHA-256 do not change with the markers. The header and the chunks after the samples are made for each
download.
"""

import uuid
from dataclasses import replace

from audio.errors import InvalidParameterError
from audio.media import cues
from audio.media.cues import Cue
from audio.models import Marker
from audio.storage import downloads
from audio.storage.downloads import Servable
from audio.storage.remote import remote_storage


def cues_of(session_id: uuid.UUID) -> list[Cue]:
    """Return the markers of a session that have a position, in the order of the recording."""
    placed = Marker.objects.filter(session=session_id, position_seconds__isnull=False)
    rows = placed.order_by("position_seconds", "created_at", "id").values_list("position_seconds", "label")
    return [Cue(seconds or 0.0, label) for seconds, label in rows]


def with_cues(found: Servable, session_id: uuid.UUID) -> Servable:
    """Return a WAV file with its session's markers as cue points.

    Raises:
        InvalidParameterError: The file has no place for them.
        FileNotFoundError, StorageUnavailableError: The file can't be read.
    """
    marked = cues_of(session_id)
    if not marked:
        return found
    head = _head(found)
    tail = b"\0" * (found.size_bytes % 2) + cues.chunks(marked, cues.sample_rate(head))
    grown = cues.grown_head(head, found.size_bytes, len(tail))
    if grown is None:
        sentence = "The file is so large that no cue points can be added to it. Download it without markers."
        raise InvalidParameterError(sentence, parameter="markers")
    etag = downloads.etag(f"{found.etag} {tail.hex()}", found.size_bytes, None)
    return replace(found, head=grown, tail=tail, size_bytes=found.size_bytes + len(tail), etag=etag)


def _head(found: Servable) -> bytes:
    if found.remote_name:
        with remote_storage().open_span(found.remote_name, 0, cues.HEAD_BYTES) as reader:
            return reader.read(cues.HEAD_BYTES)
    with found.path.open("rb") as file:
        return file.read(cues.HEAD_BYTES)
