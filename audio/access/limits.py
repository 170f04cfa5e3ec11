"""The limits of projects. The database counts, so that they hold for all processes and hosts together."""

import time
from collections.abc import Collection
from datetime import timedelta

from django.core.cache import cache
from django.db.models import Sum
from django.utils import timezone
from redis.exceptions import RedisError

from audio.access.identity import Identity
from audio.errors import LimitReachedError
from audio.models import AudioSession, Project, SessionQuerySet

_RETRY_SECONDS = 5
_MINUTE_SECONDS = 60


def are_set(project: Project) -> bool:
    """Whether a project has a limit that a new session could exceed."""
    limits = (project.max_open_sessions, project.max_openings_per_minute, project.max_bytes_per_day)
    return any(limit is not None for limit in limits)


def check_new_session(project: Project) -> None:
    """Check that a project may have another session.

    Raises:
        LimitReachedError: As many sessions are open, or were opened in the last minute, as may be, or the audio of the
            day is used up.
    """
    sessions = AudioSession.objects.filter(project=project)
    limit = project.max_open_sessions
    if limit is not None and sessions.open().count() >= limit:
        raise LimitReachedError(
            f"The project has {limit} open sessions, which is its limit.",
            limit=limit,
            limited="max_open_sessions",
            retry_after_seconds=_RETRY_SECONDS,
        )
    limit = project.max_openings_per_minute
    recent = sessions.filter(start_time__gt=timezone.now() - timedelta(seconds=_MINUTE_SECONDS))
    if limit is not None and recent.count() >= limit:
        raise LimitReachedError(
            f"The project has opened {limit} sessions in the last minute, which is its limit.",
            limit=limit,
            limited="max_openings_per_minute",
            retry_after_seconds=_retry_seconds(recent),
        )
    _check_bytes(project)


def check_bytes(project_id: int) -> None:
    """Check that a project may send more audio today.

    Raises:
        LimitReachedError: The audio of the day is used up.
    """
    project = Project.objects.filter(pk=project_id, max_bytes_per_day__isnull=False).first()
    if project is not None:
        _check_bytes(project)


def exhausted(project_ids: Collection[int]) -> dict[int, LimitReachedError]:
    """Return the projects whose audio of the day is used up, each with its error, for connections that stay open."""
    errors: dict[int, LimitReachedError] = {}
    for project in Project.objects.filter(pk__in=project_ids, max_bytes_per_day__isnull=False):
        try:
            _check_bytes(project)
        except LimitReachedError as error:
            errors[project.pk] = error
    return errors


def _check_bytes(project: Project) -> None:
    limit = project.max_bytes_per_day
    if limit is None:
        return
    now = timezone.now()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    today = AudioSession.objects.filter(project=project, start_time__gte=midnight)
    if (today.aggregate(total=Sum("byte_count"))["total"] or 0) >= limit:
        raise LimitReachedError(
            f"The project has sent {limit} bytes today, which is its limit.",
            limit=limit,
            limited="max_bytes_per_day",
            retry_after_seconds=int((midnight + timedelta(days=1) - now).total_seconds()) + 1,
        )


def check_rate(identity: Identity) -> None:
    """Count a request or a new connection of an API key, a token or a person, in windows of a second.

    Of the limits of several projects, the lowest one counts for a person.

    A Redis that is away limits nobody: recording goes on without it.

    Raises:
        LimitReachedError: There were too many in this second.
    """
    limit = identity.requests_per_second
    if limit is None:
        return
    name = f"rate:{identity.kind}:{identity.key}:{int(time.time())}"
    try:
        cache.add(name, 0, _RETRY_SECONDS)
        count = cache.incr(name)
    except (RedisError, ValueError):
        return
    if count > limit:
        raise LimitReachedError(
            f"The limit is {limit} requests per second.",
            limit=limit,
            limited="max_requests_per_second",
            retry_after_seconds=1,
        )


def _retry_seconds(recent: SessionQuerySet) -> int:
    """Return after how many seconds the oldest session of the last minute does not count any more."""
    oldest = recent.order_by("start_time").values_list("start_time", flat=True).first()
    if oldest is None:
        return _RETRY_SECONDS
    left = timedelta(seconds=_MINUTE_SECONDS) - (timezone.now() - oldest)
    return max(1, int(left.total_seconds()) + 1)
