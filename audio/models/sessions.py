"""Sessions, and their metadata, sources and connections."""

import hashlib
import uuid
from datetime import datetime
from typing import Any

from django.core.validators import MaxValueValidator
from django.db import models, transaction
from django.utils import timezone

from audio.models.access import DEFAULT_PROJECT, Project
from audio.models.expressions import DatabaseNow, literals
from audio.wire.parameters import (
    CHUNK_MODES,
    ENCODINGS,
    FORMATS,
    LABEL_MAX_LENGTH,
    RETENTION_MAX_DAYS,
    Details,
    SessionParameters,
)


def _choices(values: tuple[Any, ...]) -> list[tuple[Any, str]]:
    return [(value, str(value)) for value in values]


class SessionStatus(models.TextChoices):
    """The states of a session; the last one is final."""

    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"


OPEN_STATUSES = (SessionStatus.ACTIVE, SessionStatus.PAUSED)


class Recovery(models.TextChoices):
    """Whether a session's rows were lost and restored from the journals (`audio.integrity.reindex`)."""

    NONE = "", "no"
    PENDING = "pending"  # the reindexing has not ended
    EXACT = "exact"
    UNCERTAIN = "uncertain"  # some chunks may be missing, misplaced, or were never acknowledged


class SessionQuerySet(models.QuerySet["AudioSession"]):
    """Guarded transitions of sessions.

    Each returns the number of changed sessions. If it is 0, another process was first.
    """

    def open(self) -> "SessionQuerySet":
        """Filter sessions that may still take chunks."""
        return self.filter(status__in=literals(["active", "paused"]))

    def pause(self) -> int:
        """Change active to paused."""
        return self.filter(status=SessionStatus.ACTIVE).update(status=SessionStatus.PAUSED)

    def resume(self) -> int:
        """Change paused to active."""
        return self.filter(status=SessionStatus.PAUSED).update(status=SessionStatus.ACTIVE)

    def close(self, at: datetime | None = None) -> int:
        """Change active or paused to completed. The counters in the same row are final from then on."""
        return self.open().update(status=SessionStatus.COMPLETED, end_time=at or DatabaseNow())

    def decide(self, **parameters: str | int) -> int:
        """Set parameters that the client did not name to the values of the media, each only while it is undecided.

        Args:
            parameters: `format`, `sample_rate` or `channels`, with their values.

        Returns:
            The number of changed sessions. If it is 0, another process was first, and its decision is in the row.
        """
        moved = 0
        with transaction.atomic():
            for session in self.select_for_update().order_by("pk"):
                decided = {name: value for name, value in parameters.items() if name in session.undecided}
                if decided:
                    left = [name for name in session.undecided if name not in decided]
                    moved += AudioSession.objects.filter(pk=session.pk).update(**decided, undecided=left)
        return moved


class AudioSession(models.Model):
    """A session, into which clients record."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(
        Project,
        models.PROTECT,
        related_name="sessions",
        db_default=DEFAULT_PROJECT,
        db_index=False,
    )
    user_id = models.CharField(max_length=LABEL_MAX_LENGTH, null=True, blank=True)
    status = models.CharField(max_length=9, choices=SessionStatus.choices, default=SessionStatus.ACTIVE)
    start_time = models.DateTimeField(default=timezone.now)
    end_time = models.DateTimeField(null=True, blank=True)
    # Values that the media decide may be other than those that a client can name.
    sample_rate = models.PositiveIntegerField(help_text="Hz")
    channels = models.PositiveSmallIntegerField()
    format = models.CharField(max_length=4, choices=_choices(FORMATS))
    encoding = models.CharField(max_length=5, choices=_choices(ENCODINGS), default="s16le")
    chunk_mode = models.CharField(max_length=6, choices=_choices(CHUNK_MODES), default="auto")
    # The parameters (of format, sample_rate and channels) that the client did not name and the media have not decided
    # yet. Until then they have the server's defaults.
    undecided = models.JSONField(default=list, blank=True)
    # Kept by the commit transaction; final once the session is closed.
    total_chunks = models.BigIntegerField(default=0)
    byte_count = models.BigIntegerField(default=0)
    last_chunk_at = models.DateTimeField(null=True, blank=True)
    # When its last connection ended; null while one is open, or before the first.
    dropped_at = models.DateTimeField(null=True, blank=True)
    recovered = models.CharField(max_length=9, choices=Recovery.choices, default=Recovery.NONE, blank=True)
    # The start of its age, if the clock was set since its start_time (since its end_time for a closed session).
    age_counts_from = models.DateTimeField(null=True, blank=True)
    # When its deletion was requested or last enqueued; null if it was not requested. A session that is being deleted
    # can't get a legal hold any more.
    delete_requested_at = models.DateTimeField(null=True, blank=True)
    # The details, which people may change (`audio.ingest.details`).
    name = models.CharField(max_length=LABEL_MAX_LENGTH, null=True, blank=True)
    metadata = models.JSONField(default=dict, db_default=models.Value({}, models.JSONField()), blank=True)
    retention_days = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(RETENTION_MAX_DAYS)],
        help_text="Days until the closed session is deleted. Empty: as its project says. 0: never.",
    )
    legal_hold = models.BooleanField(default=False, db_default=False)

    objects = SessionQuerySet.as_manager()

    class Meta:
        ordering = ["-start_time", "-id"]
        # There is an index for each filter of a list, in the order of the lists, so that a page reads no more rows than
        # it shows. None of these columns changes with a chunk.
        indexes = [
            models.Index(fields=["-start_time", "-id"], name="session_newest"),
            models.Index(fields=["project", "-start_time", "-id"], name="session_by_project"),
            models.Index(fields=["project", "status", "-start_time", "-id"], name="session_by_project_status"),
            models.Index(fields=["status", "-start_time", "-id"], name="session_by_status"),
            models.Index(fields=["format", "-start_time", "-id"], name="session_by_format"),
            models.Index(fields=["user_id", "-start_time", "-id"], name="session_by_user"),
            models.Index(fields=["recovered", "-start_time", "-id"], name="session_by_recovered"),
            # The status is a column too, although it is in the condition: otherwise SQLite uses the index by status.
            models.Index(
                fields=["status", "dropped_at"],
                name="session_open_dropped",
                condition=models.Q(status__in=["active", "paused"]),
            ),
            models.Index(fields=["end_time"], name="session_ended", condition=models.Q(end_time__isnull=False)),
            models.Index(
                fields=["delete_requested_at"],
                name="session_delete_requested",
                condition=models.Q(delete_requested_at__isnull=False),
            ),
            # For the beginnings of names (`Begins`), with any collation of PostgreSQL.
            models.Index(fields=["name"], name="session_by_name", opclasses=["varchar_pattern_ops"]),
            # For the retention: sessions without one of their own, and the others. Those under a legal hold are in
            # neither, because they would be passed over in each sweep.
            models.Index(
                fields=["project", "end_time"],
                name="session_kept_by_project",
                condition=models.Q(retention_days__isnull=True, legal_hold=False, end_time__isnull=False),
            ),
            models.Index(
                fields=["retention_days", "end_time"],
                name="session_kept_by_itself",
                condition=models.Q(retention_days__isnull=False, legal_hold=False, end_time__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def parameters(self) -> SessionParameters:
        """The session's parameters as the wire protocol has them."""
        return SessionParameters(
            sample_rate=self.sample_rate,
            channels=self.channels,
            format=self.format,
            encoding=self.encoding,
            chunks=self.chunk_mode,
        )

    @property
    def details(self) -> Details:
        """The session's details."""
        return Details(self.name, self.metadata, self.retention_days, self.legal_hold)

    @property
    def is_open(self) -> bool:
        """Whether the session, as loaded, may still take chunks."""
        return self.status in OPEN_STATUSES


def metadata_digest(key: str, value: str) -> uuid.UUID:
    """Return the number by which sessions with this metadata are found."""
    return uuid.UUID(bytes=hashlib.sha256(f"{key}\0{value}".encode()).digest()[:16])


class MetadataEntry(models.Model):
    """One key and value of a session's metadata, for filters. The session itself stores all its metadata as text."""

    session = models.ForeignKey(AudioSession, models.CASCADE, related_name="metadata_entries")
    digest = models.UUIDField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["digest", "session"], name="metadata_digest_session")]

    def __str__(self) -> str:
        return f"{self.session_id} {self.digest}"


class AudioSource(models.Model):
    """A source of a session. All unnamed sources share the row with an empty name.

    Every connection that opens a named source increments `epoch`. The commit transaction compares it, so that an older
    connection of that name can't commit any more. `chunk_count` is the count that the greeting of a named source
    contains.
    """

    session = models.ForeignKey(AudioSession, models.CASCADE, related_name="sources")
    name = models.CharField(max_length=LABEL_MAX_LENGTH, blank=True)
    epoch = models.BigIntegerField(default=0)
    chunk_count = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["session", "name"], name="source_session_name")]

    def __str__(self) -> str:
        return f"{self.session_id}/{self.name}"


class IngestProcess(models.Model):
    """A web process that receives chunks. If its heartbeats stop, it counts as dead, and its connections as dropped."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    ready_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class AudioConnection(models.Model):
    """An open WebSocket that may write to a session. The row is deleted when the connection ends."""

    session = models.ForeignKey(AudioSession, models.CASCADE, related_name="open_connections")
    source = models.ForeignKey(AudioSource, models.CASCADE)
    process = models.ForeignKey(IngestProcess, models.CASCADE, related_name="open_connections")
    epoch = models.BigIntegerField()
    connected_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.session_id} #{self.pk}"


class DeletedSession(models.Model):
    """The mark of a deleted session. Any data of the session that is found later may be deleted too.

    The mark is removed after some days. `is_listed` is set when there is a JournalErasure for each journal that was
    written between `started_at` and `deleted_at`, and so may contain records of the session.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    started_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(default=timezone.now, db_index=True)
    is_listed = models.BooleanField(default=False, db_default=False)

    def __str__(self) -> str:
        return str(self.id)
