"""The Python client of SercueScribe: record, list, listen to and download sessions.

`AsyncClient` is for asyncio, and `Client` for synchronous code. Both have the same methods.
"""

from sercuescribe_client.client import AsyncClient
from sercuescribe_client.downloads import Download
from sercuescribe_client.errors import (
    ConflictError,
    DownloadDamagedError,
    IncompleteError,
    InvalidRequestError,
    LimitReachedError,
    NotAllowedError,
    NotAuthenticatedError,
    NotFoundError,
    NotReadyError,
    ScribeError,
    ServerError,
    ServerUnreachableError,
    ServiceUnavailableError,
    UsageError,
)
from sercuescribe_client.models import Event, Page
from sercuescribe_client.plain import Client, PlainRecorder
from sercuescribe_client.recorder import Recorder, RecordOptions
from sercuescribe_client.version import __version__

__all__ = [
    "AsyncClient",
    "Client",
    "ConflictError",
    "Download",
    "DownloadDamagedError",
    "Event",
    "IncompleteError",
    "InvalidRequestError",
    "LimitReachedError",
    "NotAllowedError",
    "NotAuthenticatedError",
    "NotFoundError",
    "NotReadyError",
    "Page",
    "PlainRecorder",
    "RecordOptions",
    "Recorder",
    "ScribeError",
    "ServerError",
    "ServerUnreachableError",
    "ServiceUnavailableError",
    "UsageError",
    "__version__",
]
