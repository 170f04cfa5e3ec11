"""What the database knows: sessions, their chunks, and the recordings made of them.

The database is the truth; the queue and the channel layer only carry hints. Every change of a session's
state is a conditional UPDATE whose count is inspected (`SessionQuerySet`), so that two processes can't both
win; `docs/architecture.md` draws the states with the function behind each edge.

A transaction that locks rows of several tables takes them in this order, and several rows of one table in the order of
their keys, so that no two wait for each other in a circle:

    session, source, process, connection, recording, task, chunk, journal, erasure, deleted session

An INSERT locks the rows that its foreign keys name: of a task, the session.
"""

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import models, transaction
from django.db.models.functions import Now
from django.utils import timezone

from audio.wire.parameters import (
    CHUNK_MODES,
    ENCODINGS,
    FORMATS,
    LABEL_MAX_LENGTH,
    SessionParameters,
)


def _choices(values: tuple[Any, ...]) -> list[tuple[Any, str]]:
    return [(value, str(value)) for value in values]


class Literal(models.Value):
    """A word of ours that stands in the SQL itself, not beside it as a parameter.

    SQLite uses a partial index only for a query that repeats its condition literally.
    """

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[str | int, ...]]:
        """The word in quotes."""
        return f"'{self.value}'", ()


class DatabaseNow(Now):
    """The time on the database's clock, by which processes judge each other.

    With SQLite that is the host's. Django would write it there with milliseconds, in a form that no parameter equals.
    """

    def as_sqlite(self, compiler: Any, connection: Any, **context: Any) -> tuple[str, tuple[str | int, ...]]:
        """The time as a parameter is written."""
        return "%s", (connection.ops.adapt_datetimefield_value(timezone.now()),)


def _literally(words: Iterable[str]) -> list[Literal]:
    return [Literal(word) for word in words]


class SessionStatus(models.TextChoices):
    """The states of a session; the last two are final."""

    ACTIVE = "active"
    PAUSED = "paused"
    COMPLETED = "completed"
    ERROR = "error"


OPEN_STATUSES = (SessionStatus.ACTIVE, SessionStatus.PAUSED)


class Recovery(models.TextChoices):
    """Whether a session's rows were lost and read again from the journals (`audio.integrity.reindex`)."""

    NONE = "", "no"
    PENDING = "pending"  # the reading did not come to its end
    EXACT = "exact"
    UNCERTAIN = "uncertain"  # some chunks may be missing, in another place, or there though they were not acknowledged


class SessionQuerySet(models.QuerySet["AudioSession"]):
    """Guarded transitions. Each returns how many sessions it moved: 0 means that another was first."""

    def open(self) -> "SessionQuerySet":
        """Sessions that may still take chunks."""
        return self.filter(status__in=_literally(["active", "paused"]))

    def pause(self) -> int:
        """active -> paused."""
        return self.filter(status=SessionStatus.ACTIVE).update(status=SessionStatus.PAUSED)

    def resume(self) -> int:
        """paused -> active."""
        return self.filter(status=SessionStatus.PAUSED).update(status=SessionStatus.ACTIVE)

    def close(self, at: datetime | None = None) -> int:
        """active or paused -> completed; the counters in the same row are final from here on."""
        return self.open().update(status=SessionStatus.COMPLETED, end_time=at or DatabaseNow())

    def fail(self, code: str, detail: str) -> int:
        """active or paused -> error."""
        return self.open().update(
            status=SessionStatus.ERROR, end_time=DatabaseNow(), error_code=code, error_detail=detail
        )

    def decide(self, **parameters: str | int) -> int:
        """Set what the media say of parameters that the client did not name, each only while it is undecided.

        Args:
            parameters: `format`, `sample_rate` or `channels`, with their values.

        Returns:
            How many sessions it moved: 0 means that another was first, whose decision is in the row.
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
    """One recording in the making, and for ever after."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user_id = models.CharField(max_length=LABEL_MAX_LENGTH, null=True, blank=True)
    status = models.CharField(max_length=9, choices=SessionStatus.choices, default=SessionStatus.ACTIVE)
    start_time = models.DateTimeField(default=timezone.now)
    end_time = models.DateTimeField(null=True, blank=True)
    # Where the media decide them, they may be others than those that a client can name.
    sample_rate = models.PositiveIntegerField(help_text="Hz")
    channels = models.PositiveSmallIntegerField()
    format = models.CharField(max_length=4, choices=_choices(FORMATS))
    encoding = models.CharField(max_length=5, choices=_choices(ENCODINGS), default="s16le")
    chunk_mode = models.CharField(max_length=6, choices=_choices(CHUNK_MODES), default="auto")
    # Names of the parameters above (format, sample_rate, channels) that the client did not name and that the media
    # have not decided yet; until then they have the server's defaults.
    undecided = models.JSONField(default=list, blank=True)
    # Kept by the commit transaction; final once the session is closed.
    total_chunks = models.BigIntegerField(default=0)
    byte_count = models.BigIntegerField(default=0)
    last_chunk_at = models.DateTimeField(null=True, blank=True)
    # When its last connection went away; null while one is there, or before the first.
    dropped_at = models.DateTimeField(null=True, blank=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_detail = models.CharField(max_length=500, blank=True)
    recovered = models.CharField(max_length=9, choices=Recovery.choices, default=Recovery.NONE, blank=True)
    # From when its age counts, if the clock was set since its start_time, or since its end_time once it is closed.
    age_counts_from = models.DateTimeField(null=True, blank=True)
    # When its removal in the background was last asked for; null unless somebody did.
    delete_requested_at = models.DateTimeField(null=True, blank=True)

    objects = SessionQuerySet.as_manager()

    class Meta:
        ordering = ["-start_time", "-id"]
        # One for each way in which a list is filtered, in the order of the lists: a page reads no more rows than it
        # shows. None of these columns changes with a chunk.
        indexes = [
            models.Index(fields=["-start_time", "-id"], name="session_newest"),
            models.Index(fields=["status", "-start_time", "-id"], name="session_by_status"),
            models.Index(fields=["format", "-start_time", "-id"], name="session_by_format"),
            models.Index(fields=["user_id", "-start_time", "-id"], name="session_by_user"),
            models.Index(fields=["recovered", "-start_time", "-id"], name="session_by_recovered"),
            # With the status, though the condition has it: SQLite would take the index by status otherwise.
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
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def parameters(self) -> SessionParameters:
        """The session's parameters as the protocol speaks of them."""
        return SessionParameters(
            sample_rate=self.sample_rate,
            channels=self.channels,
            format=self.format,
            encoding=self.encoding,
            chunks=self.chunk_mode,
        )

    @property
    def is_open(self) -> bool:
        """Whether the session, as loaded, may still take chunks."""
        return self.status in OPEN_STATUSES


class AudioSource(models.Model):
    """One producer in a session. The unnamed ones share the row whose name is empty.

    `epoch` is raised by every connection that opens the name; the commit transaction compares it, so an older
    connection of that name can commit nothing more. `chunk_count` is what the greeting tells a named source.
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
    """A process that takes chunks. No heartbeat for a while means that it and its connections are gone."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(max_length=255)
    pid = models.PositiveIntegerField()
    ready_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(default=timezone.now, db_index=True)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


class AudioConnection(models.Model):
    """An open WebSocket that may write to a session; the row goes when it goes."""

    session = models.ForeignKey(AudioSession, models.CASCADE, related_name="open_connections")
    source = models.ForeignKey(AudioSource, models.CASCADE)
    process = models.ForeignKey(IngestProcess, models.CASCADE, related_name="open_connections")
    epoch = models.BigIntegerField()
    connected_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return f"{self.session_id} #{self.pk}"


class DeletedSession(models.Model):
    """That a session was deleted: what still turns up of it afterwards may go too. It goes after some days.

    `is_listed`: each journal that may hold records of it, written between `started_at` and `deleted_at`, has a row.
    """

    id = models.UUIDField(primary_key=True, editable=False)
    started_at = models.DateTimeField(null=True)
    deleted_at = models.DateTimeField(default=timezone.now, db_index=True)
    is_listed = models.BooleanField(default=False, db_default=False)

    def __str__(self) -> str:
        return str(self.id)


class JournalFile(models.Model):
    """A file that chunks were appended to. `name` is relative to the storage root.

    `removed_at` says that the file may be gone from the disk, and with it the bytes of the chunks whose rows name it:
    they are in the recordings alone. `checked_at` is when a sweep last found that it has to stay.
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
    """That the records of a deleted session are to be erased from a journal.

    `erased_at` is when the process that appends to it did so; the row stays until the file is finished and was looked
    through once more.
    """

    journal = models.ForeignKey(JournalFile, models.CASCADE, related_name="erasures")
    session_id = models.UUIDField()
    erased_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["journal", "session_id"], name="erasure_journal_session")]

    def __str__(self) -> str:
        return f"{self.session_id} in {self.journal_id}"


class AudioChunk(models.Model):
    """Where the bytes of an acknowledged chunk are.

    `sequence` is its place in the session, counted from one, without holes. `offset` is that of the record's
    header in the journal file. The references carry no constraint in the database: a check a row would be paid
    for every chunk, and the commit transaction has just locked or made what they name.
    """

    session = models.ForeignKey(
        AudioSession, models.CASCADE, related_name="chunks", db_constraint=False, db_index=False
    )
    sequence = models.BigIntegerField()
    source = models.ForeignKey(AudioSource, models.CASCADE, db_constraint=False, db_index=False)
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
    """How far a session's recording is."""

    EMPTY = "empty"
    LIVE = "live"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class RecordingQuerySet(models.QuerySet["Recording"]):
    """Recordings by what is left to do."""

    def unfinished(self) -> "RecordingQuerySet":
        """Those that are neither there nor given up, nor of a session that was closed without a chunk."""
        return self.filter(state__in=_literally(["empty", "live", "building"]), is_void=False)

    def undigested(self) -> "RecordingQuerySet":
        """Those that are ready and have no SHA-256 yet."""
        return self.filter(state=Literal("ready"), sha256=Literal(""))

    def to_rebuild(self) -> "RecordingQuerySet":
        """Those that are ready and are to be made anew."""
        return self.filter(rebuild_requested_at__isnull=False)

    def here(self) -> "RecordingQuerySet":
        """Those that are ready and have not moved to another storage."""
        return self.filter(state=Literal("ready"), is_local=True)


class Recording(models.Model):
    """The recording of a session and the state of its concatenation, in a row of its own.

    Commits of chunks lock the session's row, windows lock this one: the two never wait for each other.
    A run of the concatenation writes its `token` here first and commits only while it still stands. It takes the token
    away when it hands over the master; a token that stands is that of a run that is at work, or died.
    """

    session = models.OneToOneField(AudioSession, models.CASCADE, primary_key=True, related_name="recording")
    state = models.CharField(max_length=8, choices=RecordingState.choices, default=RecordingState.EMPTY)
    token = models.UUIDField(null=True, blank=True)
    # The master: what is concatenated so far. Paths are relative to the storage root.
    master_name = models.CharField(max_length=200, blank=True)
    # Of a WAV master, the encoding of its samples; empty where the master is a stream's own bytes.
    master_encoding = models.CharField(max_length=5, blank=True)
    master_bytes = models.BigIntegerField(default=0)
    # Of the master's samples, or of a stream's; 0 while they are not known.
    sample_rate = models.PositiveIntegerField(default=0, help_text="Hz")
    channels = models.PositiveSmallIntegerField(default=0)
    chunks_done = models.BigIntegerField(default=0)
    # What the next window needs to know of those before: parsers, parts of samples, counters. Bounded.
    checkpoint = models.JSONField(default=dict, blank=True)
    progress = models.FloatField(default=0.0)
    # The recording, once ready.
    file_name = models.CharField(max_length=200, blank=True)
    format = models.CharField(max_length=4, blank=True)
    size_bytes = models.BigIntegerField(null=True, blank=True)
    duration_seconds = models.FloatField(null=True, blank=True)
    sha256 = models.CharField(max_length=64, blank=True)
    ready_at = models.DateTimeField(null=True, blank=True)
    # When the file was last found to have the size and the SHA-256 above.
    verified_at = models.DateTimeField(null=True, blank=True)
    # The session was closed without a chunk: nothing will ever be made.
    is_void = models.BooleanField(default=False)
    # Since when it is, verified, in the storage that RECORDINGS_STORAGE names; null while it is the local file.
    remote_at = models.DateTimeField(null=True, blank=True)
    # Whether the local file is still there; false once it was removed after `remote_at`.
    is_local = models.BooleanField(default=True, db_default=True)
    error_code = models.CharField(max_length=40, blank=True)
    error_detail = models.CharField(max_length=500, blank=True)
    failed_sequence = models.BigIntegerField(null=True, blank=True)
    # Since when a ready recording is to be made anew; it stays as it is until the other one is complete.
    rebuild_requested_at = models.DateTimeField(null=True, blank=True)
    # Why that could not be done, the last time.
    rebuild_error_code = models.CharField(max_length=40, blank=True)
    rebuild_error_detail = models.CharField(max_length=500, blank=True)
    # What came and is not in the recording as it came: code, detail, chunks and place in the timeline of each. Bounded.
    warnings = models.JSONField(default=list, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = RecordingQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["-updated_at", "-session"], name="recording_newest"),
            models.Index(fields=["state", "-updated_at", "-session"], name="recording_by_state"),
            # With the columns that their conditions have: SQLite would take the index above otherwise.
            models.Index(
                fields=["state", "updated_at"],
                name="recording_unfinished",
                condition=models.Q(state__in=["empty", "live", "building"], is_void=False),
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


class TaskKind(models.TextChoices):
    """What can be asked for in the background."""

    CONCATENATE = "concatenate"
    TRANSCODE = "transcode"
    WAVEFORM = "waveform"
    VERIFY = "verify"


class TaskState(models.TextChoices):
    """How far background work is; the last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    REVOKED = "revoked"


OPEN_TASK_STATES = (TaskState.PENDING, TaskState.RUNNING)


class TaskQuerySet(models.QuerySet["BackgroundTask"]):
    """Guarded transitions. Each returns how many tasks it moved: 0 means that another was first."""

    def open(self) -> "TaskQuerySet":
        """Tasks that wait or run."""
        return self.filter(state__in=_literally(["pending", "running"]))

    def start(self) -> int:
        """pending or running -> running; a run that died left it running."""
        return self.open().update(state=TaskState.RUNNING, progress=0.0, seconds_done=0.0, updated_at=DatabaseNow())

    def tell(self, progress: float, seconds_done: float) -> int:
        """How far a running one is."""
        now = DatabaseNow()
        running = self.filter(state=TaskState.RUNNING)
        return running.update(progress=progress, seconds_done=seconds_done, updated_at=now)

    def complete(self, **values: Any) -> int:
        """running -> completed."""
        now = DatabaseNow()
        running = self.filter(state=TaskState.RUNNING)
        return running.update(state=TaskState.COMPLETED, progress=1.0, ended_at=now, updated_at=now, **values)

    def fail(self, code: str, detail: str) -> int:
        """running -> failed."""
        now = DatabaseNow()
        return self.filter(state=TaskState.RUNNING).update(
            state=TaskState.FAILED, ended_at=now, updated_at=now, error_code=code, error_detail=detail
        )

    def revoke(self) -> int:
        """pending or running -> revoked; what runs sees it when it next tells how far it is."""
        now = DatabaseNow()
        return self.open().update(state=TaskState.REVOKED, is_current=False, ended_at=now, updated_at=now)


class BackgroundTask(models.Model):
    """Background work that somebody asked for, and the file that it made.

    `id` is the Celery task's. At most one row stands for each thing that can be made of a session (`is_current`):
    two that ask at once get the same row. A row that was revoked, failed and was asked for again, or whose
    recording was made anew, stays as history.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(AudioSession, models.CASCADE, related_name="tasks", db_index=False)
    kind = models.CharField(max_length=11, choices=TaskKind.choices)
    # Of a transcode; empty otherwise.
    format = models.CharField(max_length=4, blank=True)
    state = models.CharField(max_length=9, choices=TaskState.choices, default=TaskState.PENDING)
    is_current = models.BooleanField(default=True)
    progress = models.FloatField(default=0.0)
    seconds_done = models.FloatField(default=0.0)
    # Relative to the storage root.
    file_name = models.CharField(max_length=200, blank=True)
    size_bytes = models.BigIntegerField(null=True, blank=True)
    # What a verification found.
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
            models.Index(fields=["state", "-created_at", "-id"], name="task_by_state"),
            models.Index(fields=["kind", "-created_at", "-id"], name="task_by_kind"),
            # With the state, though the condition has it: SQLite would take the index by state otherwise.
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
    """What the database's clock said when a sweep of a host last looked, and what that host's steady clock said.

    Between two looks the two have to advance alike: if not, the database's clock was set. `first_at` is the first look
    since the machine was booted or the clock was set.
    """

    host = models.CharField(primary_key=True, max_length=255)
    boot_id = models.CharField(max_length=64)
    first_at = models.DateTimeField()
    last_at = models.DateTimeField()
    steady_seconds = models.FloatField()

    def __str__(self) -> str:
        return self.host


class Chore(models.Model):
    """A part of the upkeep that not every sweep does: when it is due, and how far its last round went."""

    name = models.CharField(primary_key=True, max_length=20)
    due_at = models.DateTimeField(default=timezone.now)
    cursor = models.CharField(max_length=20, blank=True)

    def __str__(self) -> str:
        return self.name
