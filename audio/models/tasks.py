"""Background work: the tasks that clients request, and the maintenance."""

import uuid
from typing import Any

from django.db import models
from django.utils import timezone

from audio.models.access import DEFAULT_PROJECT, Project
from audio.models.expressions import DatabaseNow, literals
from audio.models.sessions import AudioSession


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
        return self.filter(state__in=literals(["pending", "running"]))

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
    """A background task that a client has requested, and its result.

    `id` is also the id of the Celery task. At most one row is current (`is_current`) for each result that a session can
    have, so two requests at once get the same row. A row stays as history if it was revoked, if it failed and was
    requested again, or if the recording was rebuilt.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(AudioSession, models.CASCADE, related_name="tasks", db_index=False)
    # That of the session, which never changes. Without it here, no index would lead from a project to its newest tasks.
    project = models.ForeignKey(
        Project, models.CASCADE, related_name="+", db_default=DEFAULT_PROJECT, db_constraint=False, db_index=False
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

    Both clocks advance by the same time between two sweeps, unless the database's clock was set. `first_at` is the time
    of the first reading since the machine was booted or the clock was set.
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
