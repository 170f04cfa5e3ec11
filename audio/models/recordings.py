"""Recordings, and the markers in them."""

import uuid

from django.db import models
from django.utils import timezone

from audio.models.expressions import Literal, literals
from audio.models.sessions import AudioSession
from audio.wire.parameters import LABEL_MAX_LENGTH


class RecordingState(models.TextChoices):
    """The states of a session's recording."""

    EMPTY = "empty"
    LIVE = "live"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class RecordingQuerySet(models.QuerySet["Recording"]):
    """Filters of recordings by the work that is left."""

    def unfinished(self) -> "RecordingQuerySet":
        """Filter recordings that are neither ready nor failed.

        Those of sessions that were closed without a chunk are left out.
        """
        return self.filter(state__in=literals(["empty", "live", "building"]), is_without_audio=False)

    def undigested(self) -> "RecordingQuerySet":
        """Filter ready recordings that have no SHA-256 yet."""
        return self.filter(state=Literal("ready"), sha256=Literal(""))

    def to_rebuild(self) -> "RecordingQuerySet":
        """Filter ready recordings with a requested rebuild."""
        return self.filter(rebuild_requested_at__isnull=False)

    def here(self) -> "RecordingQuerySet":
        """Filter ready recordings that have a local file."""
        return self.filter(state=Literal("ready"), is_local=True)


class Recording(models.Model):
    """The recording of a session and the state of its assembly, in a row of its own.

    Commits of chunks lock the row of the session and windows lock this one, so the two never wait for each other. A run
    stores its claim in `token` first, and commits only while the claim is still there. It removes the claim when it
    hands over the master. So a claim in the row belongs to a run that is working, or has died.
    """

    session = models.OneToOneField(AudioSession, models.CASCADE, primary_key=True, related_name="recording")
    state = models.CharField(max_length=8, choices=RecordingState.choices, default=RecordingState.EMPTY)
    token = models.UUIDField(null=True, blank=True)
    # The master contains the audio so far. Names are relative to the storage root.
    master_name = models.CharField(max_length=200, blank=True)
    # The encoding of the samples in a WAV master; empty if the master contains the bytes of a stream.
    master_encoding = models.CharField(max_length=5, blank=True)
    master_bytes = models.BigIntegerField(default=0)
    # The parameters of the master's samples, or of the stream; 0 while they are not known.
    sample_rate = models.PositiveIntegerField(default=0, help_text="Hz")
    channels = models.PositiveSmallIntegerField(default=0)
    chunks_done = models.BigIntegerField(default=0)
    # The checkpoint, from which the next window continues: parsers, parts of samples, counters. Its size is bounded.
    checkpoint = models.JSONField(default=dict, blank=True)
    progress = models.FloatField(default=0.0)
    # These describe the recording once it is ready.
    file_name = models.CharField(max_length=200, blank=True)
    format = models.CharField(max_length=4, blank=True)
    size_bytes = models.BigIntegerField(null=True, blank=True)
    duration_seconds = models.FloatField(null=True, blank=True)
    sha256 = models.CharField(max_length=64, blank=True)
    ready_at = models.DateTimeField(null=True, blank=True)
    # When the file was last found to have the size and the SHA-256 above.
    verified_at = models.DateTimeField(null=True, blank=True)
    # True if the session was closed without a chunk, so that there will never be a recording.
    is_without_audio = models.BooleanField(default=False)
    # When its upload to the storage that RECORDINGS_STORAGE names was verified; null before that.
    remote_at = models.DateTimeField(null=True, blank=True)
    # Whether the local file still exists; false once it was removed after `remote_at`.
    is_local = models.BooleanField(default=True, db_default=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_detail = models.CharField(max_length=500, blank=True)
    failed_sequence = models.BigIntegerField(null=True, blank=True)
    # When a rebuild of a ready recording was requested; the old one is served until the new one is complete.
    rebuild_requested_at = models.DateTimeField(null=True, blank=True)
    # Why the last rebuild failed.
    rebuild_error_code = models.CharField(max_length=40, blank=True)
    rebuild_error_detail = models.CharField(max_length=500, blank=True)
    # Audio that came and is not in the recording as it came. Each entry has a code, a detail, the chunks and the
    # position in the timeline. The number of entries is bounded.
    warnings = models.JSONField(default=list, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = RecordingQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["-updated_at", "-session"], name="recording_newest"),
            models.Index(fields=["state", "-updated_at", "-session"], name="recording_by_state"),
            # Columns of the conditions are repeated: otherwise SQLite uses the index above.
            models.Index(
                fields=["state", "updated_at"],
                name="recording_unfinished",
                condition=models.Q(state__in=["empty", "live", "building"], is_without_audio=False),
            ),
            models.Index(
                fields=["state", "is_local", "updated_at"],
                name="recording_local",
                condition=models.Q(state="ready", is_local=True),
            ),
            models.Index(
                fields=["state", "sha256", "updated_at"],
                name="recording_undigested",
                condition=models.Q(state="ready", sha256=""),
            ),
            models.Index(
                fields=["rebuild_requested_at"],
                name="recording_rebuild",
                condition=models.Q(rebuild_requested_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.session_id} {self.state}"

    @property
    def looked_to(self) -> int:
        """The last sequence that a window has seen. The audio of the last chunks may wait for those that follow."""
        looked_to: int = self.checkpoint.get("looked_to", 0)
        return max(self.chunks_done, looked_to)


class Marker(models.Model):
    """A moment in the recording of a session, with a label.

    It is at `position_seconds`, or after the first `after_sequence` chunks; the position of their end is known once
    they are in the recording. For a stream in a container, `byte_offset` is the length of the stream at the marker,
    until its times are known.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(AudioSession, models.CASCADE, related_name="markers", db_index=False)
    label = models.CharField(max_length=LABEL_MAX_LENGTH)
    after_sequence = models.BigIntegerField(null=True)
    byte_offset = models.BigIntegerField(null=True)
    position_seconds = models.FloatField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["created_at", "id"]
        indexes = [models.Index(fields=["session", "created_at", "id"], name="marker_by_session")]

    def __str__(self) -> str:
        return f"{self.session_id} {self.label}"
