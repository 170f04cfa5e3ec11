"""The close of open sessions to which no client will return."""

import uuid
from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.db.models import Exists, F, Min, OuterRef, Q

from audio import ingest
from audio.access.tickets import TICKET_SECONDS
from audio.models import AudioConnection, AudioSession, IngestProcess
from audio.upkeep.processes import DEAD_AFTER_HEARTBEATS
from audio.upkeep.sweeps import Action, Sweep

SESSIONS_PER_SWEEP = 500


def close_overdue(sweep: Sweep) -> None:
    """Close open sessions whose grace period is over, or which are open for longer than allowed.

    A clock that is set forward must not close any session. It makes web processes seem dead until each of them has
    noticed the change (`audio.ingest.sessions.restart_ages`). Therefore only sessions of live processes are closed.

    A clock that was set back for a moment leaves times from before the start of a session. Such a time does not close
    the session. It counts only while the start itself is in the future, because then the clock is still set back.
    """
    for condition in _overdue(sweep):
        for key in _keys(condition):
            if sweep.dry_run or ingest.close_if(key, condition):
                sweep.note(Action.CLOSED_SESSIONS, key)


def _overdue(sweep: Sweep) -> Iterator[Q]:
    """Yield one condition after the other, each with an index of its own.

    The grace period counts from the drop, or from the time when a server became ready for reconnections, if that is
    later.
    """
    grace = timedelta(seconds=settings.DISCONNECT_GRACE_SECONDS)
    ready_at = IngestProcess.objects.aggregate(ready_at=Min("ready_at"))["ready_at"]
    if ready_at is not None and ready_at <= sweep.now - grace:
        yield Q(dropped_at__lte=sweep.now - grace) & (Q(dropped_at__gte=F("start_time")) | _starts_after(sweep))
    before = sweep.now - timedelta(hours=settings.MAX_SESSION_DURATION_HOURS)
    is_old = Q(start_time__lte=before, age_counts_from=None) | (
        Q(age_counts_from__lte=before) & (Q(start_time__lte=before) | _starts_after(sweep))
    )
    # The first condition closes sessions without connections.
    alive = sweep.now - timedelta(seconds=DEAD_AFTER_HEARTBEATS * settings.HEARTBEAT_SECONDS)
    connected = AudioConnection.objects.filter(session=OuterRef("pk"), process__heartbeat_at__gte=alive)
    yield is_old & Q(Exists(connected))


def _starts_after(sweep: Sweep) -> Q:
    return Q(start_time__gt=sweep.now)


def _keys(condition: Q) -> list[uuid.UUID]:
    found = AudioSession.objects.open().filter(condition).order_by().values_list("pk", flat=True)
    return list(found[:SESSIONS_PER_SWEEP])


def drop_deserted(sweep: Sweep) -> None:
    """Start the grace period of open sessions that count as connected although they have no connection.

    Normally there are none, because the removal of a connection stores the time of the drop. But a row that was removed
    by hand would keep its session open for the maximum duration. If a drop is in the future or before the session's
    start, because the clock was put back, it is set to now.
    """
    if not sweep.dry_run:
        future = sweep.now + timedelta(seconds=TICKET_SECONDS)
        for key in _keys(Q(dropped_at__gt=future)):
            AudioSession.objects.open().filter(pk=key, dropped_at__gt=future).update(dropped_at=sweep.now)
        early = Q(dropped_at__lt=F("start_time"), start_time__lte=sweep.now)
        for key in _keys(early):
            AudioSession.objects.open().filter(early, pk=key).update(dropped_at=sweep.now)
    connected = Exists(AudioConnection.objects.filter(session=OuterRef("pk")))
    for key in _keys(Q(~connected, dropped_at__isnull=True)):
        if sweep.dry_run or ingest.drop_if_deserted(key):
            sweep.note(Action.DROPPED_SESSIONS, key)
