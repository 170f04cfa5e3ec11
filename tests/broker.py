"""What waits at the broker: the requests for background tasks, as a worker would get them."""

import base64
import json
import uuid
from typing import Any

import redis
from django.conf import settings

QUEUE = "celery"


def requests_for(session_id: uuid.UUID, queue: str = QUEUE) -> list[str]:
    """Returns the names of the tasks that were asked for with this session in that queue, the oldest first.

    No worker runs beside Django's own tests, so that nothing takes them away.
    """
    return [message["headers"]["task"] for message in _waiting_for(session_id, queue)]


def shown_for(session_id: uuid.UUID) -> list[str]:
    """Returns the arguments of these tasks as an operator sees them, in Flower and in logs."""
    return [message["headers"]["argsrepr"] for message in _waiting_for(session_id, QUEUE)]


def _waiting_for(session_id: uuid.UUID, queue: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(settings.CELERY_BROKER_URL) as client:
        # kombu pushes on the left and takes from the right.
        waiting = [json.loads(message) for message in reversed(client.lrange(queue, 0, -1))]
    return [message for message in waiting if _names(_arguments(message), str(session_id))]


def _arguments(message: dict[str, Any]) -> list[Any]:
    arguments: list[Any] = json.loads(base64.b64decode(message["body"]))[0]
    return arguments


def _names(arguments: list[Any], session_id: str) -> bool:
    first, *_ = arguments
    return session_id == first or session_id in first
