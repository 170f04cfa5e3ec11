"""Sessions, their chunks, their recordings, and the state of background work.

The database is authoritative; the queue and the channel layer only make things happen sooner. Every change of a
session's state is a conditional UPDATE whose row count is checked (`SessionQuerySet`), so that only one of two
processes can make it. `docs/architecture.md` draws the states, with the function behind each edge.
"""

import hashlib
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.core.validators import MaxValueValidator
from django.db import models, transaction
from django.db.models.functions import Now
from django.utils import timezone

from audio.models.access import DEFAULT_PROJECT_ID, Project
from audio.wire.parameters import (
    CHUNK_MODES,
    ENCODINGS,
    FORMATS,
    LABEL_MAX_LENGTH,
    RETENTION_MAX_DAYS,
    Details,
    SessionParameters,
)

_LAST_CHARACTER = "\U0010ffff"


# The stubs of Django know no key as the default of a foreign key.
_DEFAULT_PROJECT: Any = DEFAULT_PROJECT_ID


def _choices(values: tuple[Any, ...]) -> list[tuple[Any, str]]:
    return [(value, str(value)) for value in values]


class Literal(models.Value):
    """A constant that is written into the SQL itself, not passed as a parameter.

    SQLite uses a partial index only for a query that repeats its condition literally.
    """

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[str | int, ...]]:
        """Return the constant in quotes."""
        return f"'{self.value}'", ()


class DatabaseNow(Now):
    """The time of the database's clock, with which all processes compare times.

    With SQLite that is the host's clock. Django would write it with milliseconds there, in a form that equals no
    parameter.
    """

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, tuple[str | int, ...]]:
        """Return the time in the form of a parameter."""
        return "%s", (connection.ops.adapt_datetimefield_value(timezone.now()),)


@models.CharField.register_lookup
class Begins(models.lookups.StartsWith):
    """A condition on the beginning of a text, for which both databases use an index.

    For SQLite it is a range, because LIKE knows no capitals there and uses no index.
    """

    lookup_name = "begins"

    def get_rhs_op(self, connection: Any, rhs: str) -> str:
        """Return the operator of PostgreSQL."""
        return str(connection.operators["startswith"] % rhs)

    def as_sqlite(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """Return the condition as a range in the order of the code points."""
        column, parameters = compiler.compile(self.lhs)
        first = str(self.rhs)
        return f"({column} >= %s AND {column} < %s)", [*parameters, first, *parameters, first + _LAST_CHARACTER]


def _literally(words: Iterable[str]) -> list[Literal]:
    return [Literal(word) for word in words]


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
        return self.filter(status__in=_literally(["active", "paused"]))

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
        db_default=_DEFAULT_PROJECT,
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
    # When its deletion was requested, or was last enqueued; null if nobody requested it. A session that is being
    # deleted can't get a legal hold any more.
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
    """One key and value of a session's metadata, for the index of them. The session itself has the text."""

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
    """A web process that takes chunks. If it sends no heartbeat for a while, it and its connections are gone."""

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
    """The mark of a deleted session. Any data of it that still turns up may be deleted too.

    The mark is removed after some days. `is_listed` tells that each journal with possible records of the session,
    written between `started_at` and `deleted_at`, has a JournalErasure.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    started_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(default=timezone.now, db_index=True)
    is_listed = models.BooleanField(default=False, db_default=False)

    def __str__(self) -> str:
        return str(self.id)


class JournalFile(models.Model):
    """A journal. `name` is relative to the storage root.

    If `removed_at` is set, the file may be gone from the disk, and with it the bytes of the chunks whose rows name it.
    Only the recordings contain them then. `checked_at` is when a sweep last found that the file has to stay.
    """

    name = models.CharField(max_length=200, unique=True)
    process_id = models.UUIDField()
    created_at = models.DateTimeField(default=timezone.now)
    checked_at = models.DateTimeField(null=True, blank=True)
    removed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            models.Index(fields=["created_at"], name="journal_present", condition=models.Q(removed_at__isnull=True)),
            models.Index(fields=["removed_at"], name="journal_removed", condition=models.Q(removed_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.name


class JournalErasure(models.Model):
    """A request to erase the records of a deleted session from a journal.

    `erased_at` is when the owner of the journal has erased them. The row stays until the file is finished and was
    searched once more.
    """

    journal = models.ForeignKey(JournalFile, models.CASCADE, related_name="erasures")
    session_id = models.UUIDField()
    erased_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["journal", "session_id"], name="erasure_journal_session")]

    def __str__(self) -> str:
        return f"{self.session_id} in {self.journal_id}"


class AudioChunk(models.Model):
    """The location of an acknowledged chunk.

    `sequence` is its number in the session, counted from one, without holes. `offset` is the offset of the record's
    header in the journal. The foreign keys have no constraint in the database. A constraint would cost a check for
    every chunk, and the commit transaction has just locked or inserted the rows that they name.
    """

    session = models.ForeignKey(
        AudioSession, models.CASCADE, related_name="chunks", db_constraint=False, db_index=False
    )
    sequence = models.BigIntegerField()
    # A source is deleted with its session alone, and so are its chunks. A cascade would search all chunks for them.
    source = models.ForeignKey(AudioSource, models.DO_NOTHING, db_constraint=False, db_index=False)
    journal = models.ForeignKey(JournalFile, models.PROTECT, db_constraint=False, db_index=False)
    offset = models.BigIntegerField()
    size_bytes = models.IntegerField()
    crc32 = models.BigIntegerField()
    received_at = models.DateTimeField()

    class Meta:
        ordering = ["sequence"]
        constraints = [
            models.UniqueConstraint(fields=["session", "sequence"], name="chunk_session_sequence"),
            models.UniqueConstraint(fields=["journal", "offset"], name="chunk_journal_offset"),
        ]

    def __str__(self) -> str:
        return f"{self.session_id} {self.sequence}"


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
        return self.filter(state__in=_literally(["empty", "live", "building"]), is_without_audio=False)

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

    Commits of chunks lock the session's row and windows lock this one, so the two never wait for each other. A run
    stores its claim in `token` first, and commits only while the claim is still there. It removes the claim when it
    gives up the master. A claim that is there belongs to a run that is at work, or has died.
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

    It is at `position_seconds`, or behind the first `after_sequence` chunks; their end is known once they are in the
    recording. `byte_offset` is the length of a stream in a container there, until its times are known.
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


class TaskKind(models.TextChoices):
    """The kinds of background tasks that clients can request."""

    CONCATENATE = "concatenate"
    TRANSCODE = "transcode"
    CHAPTERS = "chapters"  # a copy of a recording or a transcode that has chapters
    WAVEFORM = "waveform"
    VERIFY = "verify"


class TaskState(models.TextChoices):
    """The states of a background task. The last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    REVOKED = "revoked"


OPEN_TASK_STATES = (TaskState.PENDING, TaskState.RUNNING)


class TaskQuerySet(models.QuerySet["BackgroundTask"]):
    """Guarded transitions of tasks.

    Each returns the number of changed tasks. If it is 0, another process was first.
    """

    def open(self) -> "TaskQuerySet":
        """Filter tasks that are pending or running."""
        return self.filter(state__in=_literally(["pending", "running"]))

    def start(self) -> int:
        """Change pending or running to running. A run that died has left its task running."""
        return self.open().update(state=TaskState.RUNNING, progress=0.0, seconds_done=0.0, updated_at=DatabaseNow())

    def tell(self, progress: float, seconds_done: float) -> int:
        """Store the progress of a running task."""
        now = DatabaseNow()
        running = self.filter(state=TaskState.RUNNING)
        return running.update(progress=progress, seconds_done=seconds_done, updated_at=now)

    def complete(self, **values: Any) -> int:
        """Change running to completed."""
        now = DatabaseNow()
        running = self.filter(state=TaskState.RUNNING)
        return running.update(state=TaskState.COMPLETED, progress=1.0, ended_at=now, updated_at=now, **values)

    def fail(self, code: str, detail: str) -> int:
        """Change running to failed."""
        now = DatabaseNow()
        return self.filter(state=TaskState.RUNNING).update(
            state=TaskState.FAILED, ended_at=now, updated_at=now, error_code=code, error_detail=detail
        )

    def revoke(self) -> int:
        """Change pending or running to revoked. A run notices that when it next reports its progress."""
        now = DatabaseNow()
        return self.open().update(state=TaskState.REVOKED, is_current=False, ended_at=now, updated_at=now)


class BackgroundTask(models.Model):
    """A background task that a client requested, and the file that it made.

    `id` is also the id of the Celery task. At most one row is current (`is_current`) for each result that a session can
    have, so two requests at once get the same row. A row stays as history if it was revoked, if it failed and was
    requested again, or if the recording was rebuilt.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(AudioSession, models.CASCADE, related_name="tasks", db_index=False)
    # That of the session, which never changes. Without it here, no index would lead from a project to its newest tasks.
    project = models.ForeignKey(
        Project, models.CASCADE, related_name="+", db_default=_DEFAULT_PROJECT, db_constraint=False, db_index=False
    )
    kind = models.CharField(max_length=11, choices=TaskKind.choices)
    # The format of a transcode or of a file with chapters; empty for other kinds.
    format = models.CharField(max_length=4, blank=True)
    state = models.CharField(max_length=9, choices=TaskState.choices, default=TaskState.PENDING)
    is_current = models.BooleanField(default=True)
    progress = models.FloatField(default=0.0)
    seconds_done = models.FloatField(default=0.0)
    # Relative to the storage root.
    file_name = models.CharField(max_length=200, blank=True)
    size_bytes = models.BigIntegerField(null=True, blank=True)
    # The result of a verification.
    report = models.JSONField(null=True, blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_detail = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    updated_at = models.DateTimeField(default=timezone.now)
    ended_at = models.DateTimeField(null=True, blank=True)

    objects = TaskQuerySet.as_manager()

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["session", "kind", "format"], name="task_current", condition=models.Q(is_current=True)
            )
        ]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="task_newest"),
            models.Index(fields=["session", "-created_at", "-id"], name="task_by_session"),
            models.Index(fields=["project", "-created_at", "-id"], name="task_by_project"),
            models.Index(fields=["state", "-created_at", "-id"], name="task_by_state"),
            models.Index(fields=["kind", "-created_at", "-id"], name="task_by_kind"),
            # The state is a column too, although it is in the condition: otherwise SQLite uses the index by state.
            models.Index(
                fields=["state", "updated_at"],
                name="task_open",
                condition=models.Q(state__in=["pending", "running"]),
            ),
            models.Index(fields=["kind", "state"], name="task_kind_state"),
        ]

    def __str__(self) -> str:
        return f"{self.session_id} {self.kind} {self.format} {self.state}"


class ClockReading(models.Model):
    """The readings of the database's clock and of a host's steady clock, taken by that host's last sweep.

    Both clocks advance alike between two sweeps, unless the database's clock was set. `first_at` is the time of the
    first reading since the machine was booted or the clock was set.
    """

    host = models.CharField(primary_key=True, max_length=255)
    boot_id = models.CharField(max_length=64)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    steady_seconds = models.FloatField()

    def __str__(self) -> str:
        return self.host


class Chore(models.Model):
    """A part of the maintenance that not every sweep does.

    The row stores when it is due, and the progress of its last pass.
    """

    name = models.CharField(primary_key=True, max_length=20)
    due_at = models.DateTimeField(default=timezone.now)
    cursor = models.CharField(max_length=20, blank=True)

    def __str__(self) -> str:
        return self.name
