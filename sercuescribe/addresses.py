"""The parsing of PUBLIC_URL, DATABASE_URL and REDIS_URL, and the conversion for the libraries that connect to them.

An invalid URL raises ImproperlyConfigured. Its sentence names the variable and the part that is wrong, and no password.
"""

from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import redis
from django.core.exceptions import ImproperlyConfigured

_POSTGRESQL = ("postgresql://", "postgres://")
_SQLITE = "sqlite:///"
_PORT_MAXIMUM = 65535
_ESCAPES = "In a user or password, write / as %2F, : as %3A, @ as %40 and % as %25."
_REDIS_ESCAPES = "In a user or password, write # as %23, / as %2F, ? as %3F, : as %3A and @ as %40."
_CERTIFICATE_CHECKS = ("required", "optional", "none")


# PUBLIC_URL


def public_url(url: str) -> SplitResult | None:
    """Return the parts of PUBLIC_URL, its path without a slash at the end; None if it is empty."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.scheme not in ("http", "https") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ImproperlyConfigured(f"PUBLIC_URL must be like https://host or https://host:8443/path, not {url!r}.")
    return parts._replace(path=parts.path.rstrip("/"))


# DATABASE_URL


def sqlite_file(url: str) -> Path | None:
    """Return the file of an SQLite database; None if the URL names a PostgreSQL database."""
    if url.startswith(_POSTGRESQL):
        return None
    if not url.startswith(_SQLITE):
        raise ImproperlyConfigured("DATABASE_URL must begin with postgresql:// or sqlite:///.")
    text = url.removeprefix(_SQLITE)
    if not text or text == ":memory:":
        raise ImproperlyConfigured("DATABASE_URL must name a file, because several processes share the database.")
    if "?" in text:
        raise ImproperlyConfigured("DATABASE_URL has parameters, but SQLite has none. Write a ? in a path as %3F.")
    return Path(unquote(text)).resolve()


def sqlite(path: Path) -> dict[str, Any]:
    """Return Django's configuration for an SQLite database in a file. A connection never creates the file."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"file:{quote(str(path))}?mode=rw",
        "TEST": {"NAME": path.with_name(f"{path.name}.test")},
    }


def postgresql(url: str) -> dict[str, Any]:
    """Return Django's configuration for a PostgreSQL database."""
    parts = _libpq_parts(url)
    name, host, port = (str(parts.pop(key, "")) for key in ("dbname", "host", "port"))
    if not name and "service" not in parts:
        raise ImproperlyConfigured("DATABASE_URL names no database: write postgresql://user:password@host/name.")
    for number in filter(None, port.split(",")):
        if not (number.isascii() and number.isdigit() and 0 < int(number) <= _PORT_MAXIMUM):
            raise ImproperlyConfigured(f"The port in DATABASE_URL must be a number from 1 to 65535. {_ESCAPES}")
    if "@" in host or "@" in name or "/" in name:
        raise ImproperlyConfigured(f"DATABASE_URL can't be split into user, password, host and name. {_ESCAPES}")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "HOST": host,
        "PORT": port,
        "USER": parts.pop("user", ""),
        "PASSWORD": parts.pop("password", ""),
        "OPTIONS": parts,
    }


def _libpq_parts(url: str) -> dict[str, Any]:
    """Split a URL with PostgreSQL's own library, which knows all parameters."""
    import psycopg.conninfo  # not needed with SQLite

    try:
        return psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error as error:
        reason = str(error).strip()
    if "query parameter" in reason and ":" in reason:  # other reasons may quote the password
        known = "See postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS for the valid ones."
        raise ImproperlyConfigured(f"DATABASE_URL has an {reason}. {known}")
    raise ImproperlyConfigured(f"DATABASE_URL can't be read. {_ESCAPES}")


# REDIS_URL


def redis_url(url: str) -> str:
    """Return REDIS_URL with those characters quoted that a library treats as separators of several URLs."""
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise ImproperlyConfigured("REDIS_URL must begin with redis://, rediss:// or unix://.")
    _check_redis_parts(url)
    _check_redis_parameters(url)
    return url.replace(",", "%2C").replace(";", "%3B")


def _check_redis_parts(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_readable = not parts.fragment and parts.port != 0
    except ValueError:
        is_readable = False
    if not is_readable:
        raise ImproperlyConfigured(f"REDIS_URL can't be split into user, password, host and port. {_REDIS_ESCAPES}")
    number = parts.path.strip("/")
    if parts.scheme != "unix" and number and not (number.isascii() and number.isdigit()):
        raise ImproperlyConfigured(f"REDIS_URL must end with the number of a database, such as /0, not {number!r}.")
    if parts.scheme == "unix" and not number:
        raise ImproperlyConfigured("REDIS_URL names no socket: write unix:///run/redis/redis.sock.")


def _check_redis_parameters(url: str) -> None:
    parameters = dict(parse_qsl(urlsplit(url).query))
    checks = parameters.get("ssl_cert_reqs", "required")
    if checks not in _CERTIFICATE_CHECKS:
        wanted = ", ".join(_CERTIFICATE_CHECKS)
        raise ImproperlyConfigured(f"ssl_cert_reqs in REDIS_URL must be one of {wanted}, not {checks!r}.")
    try:
        redis.ConnectionPool.from_url(url).make_connection()
    except (TypeError, ValueError, redis.RedisError):
        names = ", ".join(parameters)
        raise ImproperlyConfigured(f"REDIS_URL has an invalid parameter among these: {names}.") from None


def redis_socket_url(path: Path) -> str:
    """Return the URL of a Redis that listens on a Unix socket."""
    return f"unix://{quote(str(path))}"


def broker_url(url: str) -> str:
    """Convert a Redis URL to Celery's form."""
    parts = urlsplit(url)
    parameters = dict(parse_qsl(parts.query))
    if parts.scheme == "unix":
        parameters = {{"db": "virtual_host"}.get(name, name): value for name, value in parameters.items()}
        query = f"?{urlencode(parameters)}" if parameters else ""
        return f"redis+socket://{parts.netloc}{parts.path}{query}"
    if parts.scheme == "rediss":  # without this parameter Celery accepts any certificate
        return parts._replace(query=urlencode({"ssl_cert_reqs": "required"} | parameters)).geturl()
    return url
