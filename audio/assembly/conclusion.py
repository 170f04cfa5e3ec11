"""The last steps of a recording that is ready. Each step can be repeated."""

from django.db import transaction

from audio.assembly import superseded
from audio.models import Recording
from audio.storage import durable, paths
from audio.webhooks import events


def conclude(recording: Recording) -> None:
    """Finish a ready recording. Its SHA-256 is stored last, and so shows that all steps are done."""
    superseded.tidy(recording.pk)
    add_digest(recording)


def add_digest(recording: Recording) -> None:
    """Add the SHA-256 of a ready recording.

    The header of a recording is written last, so the file has to be read once more. `ready` does not wait for that,
    because the close of a long session must not cost more than that of a short one. The event `recording.ready` does,
    because receivers need the SHA-256.
    """
    if not recording.sha256:
        recording.sha256 = durable.sha256_of(paths.root() / recording.file_name)
        undigested = Recording.objects.filter(pk=recording.pk, ready_at=recording.ready_at, sha256="")
        with transaction.atomic():
            if undigested.update(sha256=recording.sha256):
                events.recording_ready(recording)
