"""All settings. Only this module reads the environment. docs/configuration.md lists the variables.

An invalid value stops the process at once. The message names the variable, its value and the valid values.
"""

import hashlib
import ipaddress
import math
import os
import re
import socket
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key
from kombu import Exchange, Queue

from audio.wire.parameters import CHANNELS, FORMATS, SAMPLE_RATES_HZ
from sercuescribe import __version__, addresses

BASE_DIR = Path(__file__).resolve().parent.parent
T = TypeVar("T", int, str)


def _text(name: str, default: str) -> str:
    """Return a variable without surrounding blanks; an empty variable counts as unset."""
    return os.environ.get(name, "").strip() or default


def _path(name: str, default: str) -> Path:
    """Return the absolute path in a variable. Blanks belong to the path."""
    path = Path(os.environ.get(name, "") if _text(name, "") else default).resolve()
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ImproperlyConfigured(f"{name} must be valid UTF-8, not {os.fsencode(path)!r}.") from None
    return path


def _number(name: str, default: int, minimum: int, maximum: int | None = None) -> int:
    text = _text(name, str(default))
    try:
        value = int(text)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a whole number, not {text!r}.") from None
    if value < minimum or (maximum is not None and value > maximum):
        bound = f"from {minimum} to {maximum}" if maximum is not None else f"of at least {minimum}"
        raise ImproperlyConfigured(f"{name} must be a whole number {bound}, not {value}.")
    return value


def _seconds(name: str, default: float, minimum: float) -> float:
    text = _text(name, str(default))
    try:
        value = float(text)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a number of seconds, not {text!r}.") from None
    if not value >= minimum or value == float("inf"):
        raise ImproperlyConfigured(f"{name} must be at least {minimum} seconds, not {text}.")
    return value


def _choice(name: str, default: T, choices: tuple[T, ...]) -> T:
    text = _text(name, str(default))
    for choice in choices:
        if str(choice) == text.lower():
            return choice
    raise ImproperlyConfigured(f"{name} must be one of {', '.join(map(str, choices))}, not {text!r}.")


def _flag(name: str, default: bool) -> bool:
    return _choice(name, str(default).lower(), ("true", "false", "1", "0", "yes", "no")) in ("true", "1", "yes")


def _list(name: str, default: str) -> list[str]:
    return [part.strip() for part in _text(name, default).split(",") if part.strip()]


# Server
HOST = _text("HOST", "127.0.0.1").strip("[]")
PORT = _number("PORT", 8000, 0, 65535)
DATA_DIR = _path("DATA_DIR", "var")
DEBUG = _flag("DEBUG", False)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


_LOOPBACK = _is_loopback(HOST)
PUBLIC_URL = addresses.public_url(_text("PUBLIC_URL", ""))
PUBLIC_PATH = PUBLIC_URL.path if PUBLIC_URL else ""
# Only programs and people on this machine can reach such a server, because it accepts no other host name.
IS_LOCAL_ONLY = _LOOPBACK and not PUBLIC_URL and not _text("ALLOWED_HOSTS", "")
ALLOWED_HOSTS = _list("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]" if _LOOPBACK else "*")
if PUBLIC_URL:
    ALLOWED_HOSTS.append(str(PUBLIC_URL.hostname))
IS_AUTH_CHOSEN = bool(_text("REQUIRE_AUTH", ""))
REQUIRE_AUTH = _flag("REQUIRE_AUTH", not IS_LOCAL_ONLY)
# Without authentication, any page that somebody visits on this machine could otherwise read its recordings.
ALLOWED_ORIGINS = _list("ALLOWED_ORIGINS", "*" if REQUIRE_AUTH else "localhost,127.0.0.1,[::1]")
METRICS_TOKEN = _text("METRICS_TOKEN", "")
AUDIT_DAYS = _number("AUDIT_DAYS", 365, 1, 36500)
FORWARDED_ALLOW_IPS = _list("FORWARDED_ALLOW_IPS", "127.0.0.1")
WEB_PROCESSES = _number("WEB_PROCESSES", 1, 1)
NOTIFY_SOCKET = _text("NOTIFY_SOCKET", "")
LOG_FORMAT = _choice("LOG_FORMAT", "plain", ("plain", "json"))
LOG_LEVEL = _choice("LOG_LEVEL", "INFO", ("debug", "info", "warning", "error", "INFO")).upper()


_GIVEN_SECRET_KEY = _text("SECRET_KEY", "")
# The file in which the first start stores the generated key; None if the operator sets SECRET_KEY.
SECRET_KEY_FILE = None if _GIVEN_SECRET_KEY else DATA_DIR / "secret_key"


def _kept_secret_key(path: Path) -> str:
    """Return the key in the file, or a new one, which `audio.management.installation` stores when a server starts."""
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return get_random_secret_key()
    except OSError as error:
        raise ImproperlyConfigured(f"The file {path} can't be read: {error.strerror}. Set DATA_DIR.") from None


SECRET_KEY = _kept_secret_key(SECRET_KEY_FILE) if SECRET_KEY_FILE else _GIVEN_SECRET_KEY

# People
LOGIN_FAILURES = _number("LOGIN_FAILURES", 5, 1)
LOGIN_LOCKOUT_MINUTES = _number("LOGIN_LOCKOUT_MINUTES", 15, 1, 7 * 24 * 60)
OIDC_ISSUER = _text("OIDC_ISSUER", "")
OIDC_CLIENT_ID = _text("OIDC_CLIENT_ID", "")
OIDC_CLIENT_SECRET = _text("OIDC_CLIENT_SECRET", "")
OIDC_NAME = _text("OIDC_NAME", "single sign-on")
OIDC_DEFAULT_PROJECT = _text("OIDC_DEFAULT_PROJECT", "")
OIDC_DEFAULT_ROLE = _choice("OIDC_DEFAULT_ROLE", "viewer", ("viewer", "recorder", "manager"))
if len({bool(OIDC_ISSUER), bool(OIDC_CLIENT_ID), bool(OIDC_CLIENT_SECRET)}) > 1:
    raise ImproperlyConfigured("Set OIDC_ISSUER, OIDC_CLIENT_ID and OIDC_CLIENT_SECRET, or none of them.")
if OIDC_ISSUER and not OIDC_ISSUER.startswith(("http://", "https://")):
    raise ImproperlyConfigured(f"OIDC_ISSUER must be a URL such as https://login.example.org, not {OIDC_ISSUER!r}.")

# Recording
AUDIO_STORAGE_PATH = _path("AUDIO_STORAGE_PATH", str(DATA_DIR / "audio"))
DEFAULT_SAMPLE_RATE = _choice("DEFAULT_SAMPLE_RATE", 44100, SAMPLE_RATES_HZ)
DEFAULT_CHANNELS = _choice("DEFAULT_CHANNELS", 1, CHANNELS)
DEFAULT_FORMAT = _choice("DEFAULT_FORMAT", "wav", FORMATS)
FFMPEG_BINARY = _text("FFMPEG_BINARY", "")
FFMPEG_LOGLEVEL = _choice(
    "FFMPEG_LOGLEVEL", "error", ("quiet", "panic", "fatal", "error", "warning", "info", "verbose", "debug")
)
MAX_CONNECTIONS_PER_SESSION = _number("MAX_CONNECTIONS_PER_SESSION", 5, 1)
MAX_CONCURRENT_SESSIONS = _number("MAX_CONCURRENT_SESSIONS", 10000, 1)
MAX_MESSAGE_SIZE_BYTES = _number("MAX_MESSAGE_SIZE_BYTES", 10 * 1024 * 1024, 1024, 1 << 30)
MAX_SESSION_DURATION_HOURS = _seconds("MAX_SESSION_DURATION_HOURS", 24, 0.001)
CONNECTION_TIMEOUT_SECONDS = _seconds("CONNECTION_TIMEOUT_SECONDS", 300, 0.1)
DISCONNECT_GRACE_SECONDS = _seconds("DISCONNECT_GRACE_SECONDS", 30, 0)
JOURNAL_FILE_SIZE_BYTES = _number("JOURNAL_FILE_SIZE_BYTES", 256 * 1024 * 1024, 1024 * 1024)
JOURNAL_KEEP_DAYS = _number("JOURNAL_KEEP_DAYS", 30, 0, 36500)
RETENTION_DAYS = _number("RETENTION_DAYS", 0, 0, 36500)
COMMIT_GATHER_MS = _number("COMMIT_GATHER_MS", 8, 0, 1000)
WINDOW_SECONDS = _seconds("WINDOW_SECONDS", 60, 0.1)
SWEEP_INTERVAL_SECONDS = _seconds("SWEEP_INTERVAL_SECONDS", 2, 0.1)
HEARTBEAT_SECONDS = _seconds("HEARTBEAT_SECONDS", 5, 0.1)
WORKER_CONCURRENCY = _number("WORKER_CONCURRENCY", 2, 1)
METRICS_DIR = _path("METRICS_DIR", str(DATA_DIR / "metrics"))

# Finished recordings
RECORDINGS_STORAGE = _text("RECORDINGS_STORAGE", "")
AWS_ACCESS_KEY_ID = _text("AWS_ACCESS_KEY_ID", "")
AWS_SECRET_ACCESS_KEY = _text("AWS_SECRET_ACCESS_KEY", "")
AWS_SESSION_TOKEN = _text("AWS_SESSION_TOKEN", "")
AWS_DEFAULT_REGION = _text("AWS_DEFAULT_REGION", "")
AWS_ENDPOINT_URL_S3 = _text("AWS_ENDPOINT_URL_S3", "")


def _recordings_storage() -> dict[str, Any]:
    if not RECORDINGS_STORAGE:
        backend = "django.core.files.storage.FileSystemStorage"
        return {"BACKEND": backend, "OPTIONS": {"location": AUDIO_STORAGE_PATH}}
    place = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([\w./-]*))?", RECORDINGS_STORAGE, re.ASCII)
    if place is None or ".." in RECORDINGS_STORAGE:
        raise ImproperlyConfigured(
            f"RECORDINGS_STORAGE must be s3://bucket or s3://bucket/folder, not {RECORDINGS_STORAGE!r}."
        )
    if bool(AWS_ACCESS_KEY_ID) != bool(AWS_SECRET_ACCESS_KEY):
        raise ImproperlyConfigured("Set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither.")
    if AWS_ENDPOINT_URL_S3 and not AWS_ENDPOINT_URL_S3.startswith(("http://", "https://")):
        raise ImproperlyConfigured("AWS_ENDPOINT_URL_S3 must begin with http:// or https://.")
    options = {
        "bucket_name": place[1],
        "location": (place[2] or "").strip("/"),
        "endpoint_url": AWS_ENDPOINT_URL_S3 or None,
        "region_name": AWS_DEFAULT_REGION or None,
        # Without a key the library searches the usual places, such as the role of the machine.
        "access_key": AWS_ACCESS_KEY_ID or None,
        "secret_key": AWS_SECRET_ACCESS_KEY or None,
        "security_token": AWS_SESSION_TOKEN or None,
    }
    return {"BACKEND": "audio.storage.s3.RecordingsStorage", "OPTIONS": options}


STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "recordings": _recordings_storage(),
}


# Webhooks
def _networks(texts: list[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    try:
        return [ipaddress.ip_network(text) for text in texts]
    except ValueError as error:
        sentence = f"WEBHOOK_ALLOWED_NETWORKS must be a list of networks such as 2001:db8::/32: {error}."
        raise ImproperlyConfigured(sentence) from None


WEBHOOK_ALLOWED_NETWORKS = _networks(_list("WEBHOOK_ALLOWED_NETWORKS", ""))
WEBHOOK_EVENT_DAYS = _number("WEBHOOK_EVENT_DAYS", 30, 7, 3650)

# Database
_SQLITE_OPTIONS: dict[str, Any] = {
    "timeout": 30,
    "transaction_mode": "IMMEDIATE",
    # synchronous=FULL: a committed row has to be on the disk before its chunk is acknowledged.
    # wal_autocheckpoint: with a longer log, a page that many batches change is copied and synced only once.
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=8000;",
}


# How soon each side considers a silent other side gone. A host that hangs or is cut off within a transaction keeps the
# locks of its sessions, and other hosts wait for them.
_PATIENCE_SECONDS = max(5.0, 2 * HEARTBEAT_SECONDS)
_PATIENCE_MS = round(1000 * _PATIENCE_SECONDS)
_PROBE_SECONDS = math.ceil(_PATIENCE_SECONDS / 4)
_POSTGRESQL_KEEPALIVE = {"idle": _PROBE_SECONDS, "interval": _PROBE_SECONDS, "count": 3}
_POSTGRESQL_OPTIONS: dict[str, Any] = {
    "connect_timeout": math.ceil(_PATIENCE_SECONDS),
    **{f"keepalives_{name}": value for name, value in _POSTGRESQL_KEEPALIVE.items()},
    "tcp_user_timeout": _PATIENCE_MS,
}
# `audio.apps` sets these on each new connection, because a pooler rejects them as startup parameters.
POSTGRESQL_SESSION = {
    **{f"tcp_keepalives_{name}": str(value) for name, value in _POSTGRESQL_KEEPALIVE.items()},
    "tcp_user_timeout": str(_PATIENCE_MS),
    "idle_in_transaction_session_timeout": str(_PATIENCE_MS),
}


_DATABASE_URL = _text("DATABASE_URL", "")
# The file of an SQLite database; None with PostgreSQL.
SQLITE_FILE = addresses.sqlite_file(_DATABASE_URL) if _DATABASE_URL else DATA_DIR / "db.sqlite3"


def _database() -> dict[str, Any]:
    if SQLITE_FILE is not None:
        return addresses.sqlite(SQLITE_FILE) | {"OPTIONS": _SQLITE_OPTIONS, "CONN_MAX_AGE": None}
    config = addresses.postgresql(_DATABASE_URL)
    # Options in the URL take precedence.
    options = _POSTGRESQL_OPTIONS | config["OPTIONS"]
    return config | {"OPTIONS": options, "CONN_HEALTH_CHECKS": True, "CONN_MAX_AGE": 60}


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Redis: the channel layer, the cache and Celery's broker
_UNIX_SOCKET_MAX_BYTES = 100


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        raise ImproperlyConfigured("There is no writable temporary folder. Mount one at /tmp, or set TMPDIR.") from None


def _redis_socket() -> Path:
    """Return the path of the bundled Redis's socket.

    sockaddr_un holds only 108 bytes. If DATA_DIR is too long for it, the socket gets a short name in the temporary
    folder.
    """
    path = DATA_DIR / "redis" / "redis.sock"
    if len(os.fsencode(path)) <= _UNIX_SOCKET_MAX_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    short = _temporary_folder() / f"sercuescribe-{os.getuid()}-{digest}" / "redis.sock"
    if len(os.fsencode(short)) > _UNIX_SOCKET_MAX_BYTES:
        raise ImproperlyConfigured(
            f"DATA_DIR and the temporary folder ({short.parent.parent}) are both too deep for a Unix socket:"
            " set DATA_DIR or TMPDIR to a shorter path, or set REDIS_URL."
        )
    return short


REDIS_URL = _text("REDIS_URL", "")
REDIS_SOCKET = Path() if REDIS_URL else _redis_socket()
_REDIS = addresses.redis_url(REDIS_URL) if REDIS_URL else addresses.redis_socket_url(REDIS_SOCKET)

CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # Redis blocks a read for up to 5 seconds, which is also the client's default timeout.
        "CONFIG": {"hosts": [{"address": _REDIS, "socket_timeout": 30}], "capacity": 10000, "prefix": "sercuescribe"},
    }
}
CACHES: dict[str, dict[str, Any]] = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": _REDIS,
        "OPTIONS": {"pool_class": "sercuescribe.cache.SharedPools"},
    }
}

# Celery
CELERY_BROKER_URL = addresses.broker_url(_REDIS)
CELERY_RESULT_BACKEND = "django-db"
CELERY_RESULT_EXTENDED = True
CELERY_TASK_TRACK_STARTED = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_CONCURRENCY = WORKER_CONCURRENCY
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# A worker waits for its broker without a limit, even if the broker rejects writes.
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
CELERY_WORKER_CONSUMER = "sercuescribe.worker:Consumer"
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
# These are longer than FFmpeg may take for a day of audio. At the soft limit a task can still store its error.
CELERY_TASK_SOFT_TIME_LIMIT = 5 * 3600
CELERY_TASK_TIME_LIMIT = 6 * 3600
# Without these limits a process would wait forever for a Redis that hangs or is cut off.
_BROKER_SECONDS = 5
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}
# A process that enqueues a task never waits for a missing broker, because the sweep enqueues the task again. The sweep
# also finds the tasks of a killed worker. So the broker redelivers a task only when no worker can be running it.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": CELERY_TASK_TIME_LIMIT + 3600,
    "max_retries": 0,
    "socket_connect_timeout": _BROKER_SECONDS,
    "socket_timeout": _BROKER_SECONDS,
    "socket_keepalive": True,
    "socket_keepalive_options": {
        getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)
    },
}
CELERY_TASK_PUBLISH_RETRY = False
CELERY_IMPORTS = ("tasks.recordings", "tasks.jobs", "tasks.upkeep", "tasks.sweeps", "tasks.removal", "tasks.webhooks")
# By default a worker consumes all queues. `serve` runs one for `celery`, one for `jobs` and `webhooks`, and sweeps by
# itself.
_QUEUES = ("celery", "jobs", "webhooks", "sweeps")
CELERY_TASK_QUEUES = [Queue(name, Exchange(name), routing_key=name) for name in _QUEUES]
CELERY_TASK_ROUTES = {
    **{
        f"sercuescribe.{name}": {"queue": "jobs"}
        for name in ("transcode", "chapters", "waveform", "verify", "upload", "chore", "delete_session")
    },
    "sercuescribe.sweep": {"queue": "sweeps"},
    "sercuescribe.deliver_webhooks": {"queue": "webhooks"},
}
# For `celery beat`, which runs in production. Tasks do not expire, because Celery would compare the clocks of two
# hosts. A sweep without work costs a few queries.
CELERY_BEAT_SCHEDULE = {
    "sweep": {
        "task": "sercuescribe.sweep",
        "schedule": SWEEP_INTERVAL_SECONDS,
    }
}
# Flower reads this variable itself. The setting is for `audio.checks`.
FLOWER_BASIC_AUTH = _text("FLOWER_BASIC_AUTH", "")
CELERY_BEAT_SCHEDULER = "sercuescribe.beat:Scheduler"
CELERY_BEAT_SCHEDULE_FILENAME = str(DATA_DIR / "beat-schedule")
CELERY_TIMEZONE = "UTC"
CELERY_WORKER_HIJACK_ROOT_LOGGER = False

# Daphne provides `runserver`. Its default limit is a megabyte.
DAPHNE_WEBSOCKET_MAX_MESSAGE_SIZE = MAX_MESSAGE_SIZE_BYTES
DAPHNE_WEBSOCKET_MAX_FRAME_SIZE = MAX_MESSAGE_SIZE_BYTES

# Django
INSTALLED_APPS = [
    # `audio` replaces the admin lists of django_celery_results, which comes first, and the `runserver` of staticfiles,
    # which comes later.
    "django_celery_results",
    "audio",
    # The admin is loaded with the URLs (`sercuescribe.urls`), because only processes that answer HTTP need it.
    "audio.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "channels",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
]
MIDDLEWARE = [
    "sercuescribe.logs.RequestContext",
    "django.middleware.security.SecurityMiddleware",
    "audio.console.security.content_security_policy",
    "audio.console.security.secure_cookies",
    "sercuescribe.malformed.reject_malformed",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "sercuescribe.proxies.PublicHost",
    "sercuescribe.origins.CrossOrigin",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "sercuescribe.urls"
ASGI_APPLICATION = "sercuescribe.asgi.application"
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
LOGIN_URL = LOGOUT_REDIRECT_URL = "login"
LOGIN_REDIRECT_URL = "home"
# Failed logins are counted for a name at an address, for an address, and for a name (`audio.console.attempts`).
AXES_HANDLER = "audio.console.attempts.Attempts"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"], "ip_address", "username"]
AXES_FAILURE_LIMIT = LOGIN_FAILURES
AXES_COOLOFF_TIME = timedelta(minutes=LOGIN_LOCKOUT_MINUTES)
# An attempt while logins are locked is not counted, so that a program can't keep a person out by trying on.
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False

# Pages of allowed origins (`sercuescribe.origins`) may use the API, but with keys and tokens alone: a browser sends no
# cookies along.
CORS_URLS_REGEX = r"^/(api|health|client)(/|$)"
CORS_ALLOW_ALL_ORIGINS = "*" in ALLOWED_ORIGINS
CORS_ALLOW_CREDENTIALS = False
CORS_ALLOW_METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PATCH", "PUT", "DELETE")
CORS_ALLOW_HEADERS = (
    *("accept", "authorization", "content-type", "idempotency-key", "x-requested-with"),
    *("if-match", "if-none-match", "if-range", "range"),
)
CORS_EXPOSE_HEADERS = (
    *("accept-ranges", "content-disposition", "content-length", "content-range", "etag", "location", "retry-after"),
    "www-authenticate",
)
CORS_PREFLIGHT_MAX_AGE = 7200

FORCE_SCRIPT_NAME = PUBLIC_PATH or None
SESSION_ENGINE = "audio.console.sessions"
SESSION_COOKIE_HTTPONLY = True
# A link to a page finds its reader logged in; a request from another site does not.
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = PUBLIC_PATH or "/"
CSRF_TRUSTED_ORIGINS = [f"{PUBLIC_URL.scheme}://{PUBLIC_URL.netloc}"] if PUBLIC_URL else []
STATIC_URL = f"{PUBLIC_PATH}/static/"
# The modules that `/client/sercuescribe.js` consists of.
JAVASCRIPT_CLIENT_DIR = BASE_DIR / "clients" / "javascript" / "src"
# Static files are served from the packages that contain them, so that no collectstatic is needed.
WHITENOISE_USE_FINDERS = True
# The documentation, which `make guide` builds, is below /guide. A folder has the address of its index.
SITE_DIR = BASE_DIR / "site"
WHITENOISE_ROOT = SITE_DIR if SITE_DIR.is_dir() else None
WHITENOISE_INDEX_FILE = True
# These belong to `check --deploy`. The proxy is responsible for TLS, for the redirection to it and for HSTS. Cookies
# are secure if clients use TLS (`audio.console.security`). The login page says by itself that logins are locked, so
# that no request has to pass through the middleware of axes (W002).
SILENCED_SYSTEM_CHECKS = ["security.W004", "security.W008", "security.W012", "security.W016", "axes.W002"]
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
# The formats of times on pages.
FORMAT_MODULE_PATH = "sercuescribe.formats"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "audio.api.access.SecretAuthentication",
        "audio.api.access.CookieAuthentication",
    ],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer", "audio.api.pages.PageRenderer"],
    "DEFAULT_PERMISSION_CLASSES": ["audio.api.access.Door"],
    "DEFAULT_THROTTLE_CLASSES": ["audio.api.access.RequestRate"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "EXCEPTION_HANDLER": "audio.api.errors.handle_exception",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "SercueScribe",
    "DESCRIPTION": "Records live audio: durable chunks in, one exact recording out.",
    "VERSION": __version__,
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["audio.api.access.Known"],
    "SERVERS": [{"url": PUBLIC_PATH}] if PUBLIC_PATH else [],
    "SWAGGER_UI_DIST": "SIDECAR",
    # Links within the buttons of operations can't be reached with a keyboard.
    "SWAGGER_UI_SETTINGS": {"deepLinking": False},
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "audio.api.described.reject_unknown_fields",
    ],
    "ENUM_NAME_OVERRIDES": {
        "StatusEnum": "audio.models.SessionStatus",
        "TaskStatusEnum": "audio.models.TaskState",
        "DeliveryStatusEnum": "audio.models.DeliveryState",
        "EventTypeEnum": "audio.models.EventType",
        "FormatEnum": "audio.wire.parameters.FORMATS",
        "TargetFormatEnum": "audio.media.plan.TARGETS",
    },
}

LOGGING_CONFIG = "sercuescribe.logs.configure"
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"()": "sercuescribe.logs.plain"}, "json": {"()": "sercuescribe.logs.json"}},
    "filters": {"rejections": {"()": "sercuescribe.logs.Rejections"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["rejections"]}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "daphne": {"level": "WARNING"},
        "uvicorn.error": {"level": "WARNING"},
        # The login page logs failed logins itself.
        "axes": {"level": "ERROR"},
        # These log the start and the end of every task. Tasks log their results themselves.
        "celery.worker.strategy": {"level": "WARNING"},
        "celery.app.trace": {"level": "WARNING"},
        "celery.beat": {"level": "WARNING"},
        # The event `process_ready` says that a worker is ready.
        "celery.apps.worker": {"level": "WARNING"},
        "celery.worker.consumer.connection": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        # It logs the URL of each request, and that of a webhook may contain a secret.
        "httpx": {"level": "WARNING"},
    },
}
