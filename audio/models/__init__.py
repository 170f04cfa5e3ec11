"""The models: sessions and their recordings, access to them, and webhooks.

The database is authoritative; the queue and the channel layer only make things happen sooner. Every change of a
session's state is a conditional UPDATE whose row count is checked (`SessionQuerySet`), so that only one of two
processes can make it. The diagrams in `docs/architecture.md` show the states, and the function of each transition.

A transaction that locks rows of several tables locks them in the following order, and several rows of one table in the
order of their keys. So no two transactions wait for each other in a circle:

    project, API key, session, metadata entry, source, process, connection, recording, marker, task, chunk, journal,
    erasure, deleted session

An INSERT locks the rows that its foreign keys name. An insert of a session locks its project, for example.
"""

from audio.models.access import (
    DEFAULT_PROJECT_ID,
    DEFAULT_PROJECT_NAME,
    ApiKey,
    AuditEntry,
    Membership,
    OpenIdAccount,
    Project,
    Role,
    Scope,
    SessionToken,
    TokenPurpose,
)
from audio.models.chunks import AudioChunk, JournalErasure, JournalFile
from audio.models.expressions import DatabaseNow, Literal
from audio.models.recordings import Marker, Recording, RecordingQuerySet, RecordingState
from audio.models.sessions import (
    OPEN_STATUSES,
    AudioConnection,
    AudioSession,
    AudioSource,
    DeletedSession,
    IngestProcess,
    MetadataEntry,
    Recovery,
    SessionQuerySet,
    SessionStatus,
    metadata_digest,
)
from audio.models.tasks import (
    OPEN_TASK_STATES,
    BackgroundTask,
    Chore,
    ClockReading,
    TaskKind,
    TaskQuerySet,
    TaskState,
)
from audio.models.webhooks import (
    TEST_TYPE,
    DeliveryState,
    EventType,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
    WebhookSecret,
)

__all__ = [
    "DEFAULT_PROJECT_ID",
    "DEFAULT_PROJECT_NAME",
    "OPEN_STATUSES",
    "OPEN_TASK_STATES",
    "TEST_TYPE",
    "ApiKey",
    "AudioChunk",
    "AudioConnection",
    "AudioSession",
    "AudioSource",
    "AuditEntry",
    "BackgroundTask",
    "Chore",
    "ClockReading",
    "DatabaseNow",
    "DeletedSession",
    "DeliveryState",
    "EventType",
    "IngestProcess",
    "JournalErasure",
    "JournalFile",
    "Literal",
    "Marker",
    "Membership",
    "MetadataEntry",
    "OpenIdAccount",
    "Project",
    "Recording",
    "RecordingQuerySet",
    "RecordingState",
    "Recovery",
    "Role",
    "Scope",
    "SessionQuerySet",
    "SessionStatus",
    "SessionToken",
    "TaskKind",
    "TaskQuerySet",
    "TaskState",
    "TokenPurpose",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookEvent",
    "WebhookSecret",
    "metadata_digest",
]
