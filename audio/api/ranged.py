"""Downloads: a file, or one range of it, sent without ever being in memory as a whole.

RFC 9110: section 14 for ranges, 13 for preconditions, 8.8 for validators. One range at a time is understood;
a request for several gets the whole, which section 14.2 allows. Django's FileResponse knows no ranges, and
under ASGI it reads the whole file before it sends the first byte.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header, http_date, parse_http_date_safe, quote_etag

from audio.errors import MasterDamaged, PreconditionFailed, RangeNotSatisfiable
from audio.storage.downloads import Servable
from audio.storage.remote import remote_storage

READ_SIZE_BYTES = 256 * 1024
# More digits than any file has bytes: not a range that anyone means.
_RANGE = re.compile(r"([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def length_bytes(self) -> int:
        return self.end - self.start


def parse_range(header: str, size_bytes: int) -> Span | None:
    """Takes a Range header and the length of what it is about; returns the span it asks for.

    Returns None for what a server ignores: another unit, several ranges, or what is not a range at all.
    Raises RangeNotSatisfiable if it asks for bytes that are not there (RFC 9110 section 14.1.2).
    """
    unit, _, ranges = header.partition("=")
    given = [text.strip() for text in ranges.split(",") if text.strip()]
    match = _RANGE.fullmatch(given[0]) if unit.strip().lower() == "bytes" and len(given) == 1 else None
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size_bytes - int(last))
    end = min(int(last) + 1, size_bytes) if first and last else size_bytes
    if start >= end:
        raise RangeNotSatisfiable(size_bytes=size_bytes)
    return Span(start, end)


class FileBody:
    """The bytes of a span of a file, read as fast as the client takes them, in a thread that waits for nobody.

    Takes the file, open for reading, the bytes that stand in for its first ones, and the span. Django closes
    it when the response ends, also when the client goes away in the middle.
    """

    def __init__(self, path: Path, head: bytes, span: Span) -> None:
        # Opened here, not at the first byte: what is deleted in between is still served whole.
        self._file = path.open("rb")
        self._head = head
        self._span = span

    def close(self) -> None:
        self._file.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        position = self._span.start
        while position < self._span.end:
            part = await asyncio.to_thread(self._read, position)
            position += len(part)
            yield part

    def _read(self, position: int) -> bytes:
        length = min(READ_SIZE_BYTES, self._span.end - position)
        if position < len(self._head):
            return self._head[position : position + length]
        self._file.seek(position)
        part = self._file.read(length)
        if not part:
            raise MasterDamaged("The file ended before its recorded length.")
        return part


class ObjectBody:
    """The bytes of a span of an object in the remote storage, a part at a time, in a thread of its own: however long
    the storage takes, nobody else waits for it.

    Takes the object's name and the span; raises FileNotFoundError, ObjectDamaged or StorageUnavailable. Django closes
    it as it does a FileBody.
    """

    def __init__(self, name: str, span: Span) -> None:
        self._reader = remote_storage().open_span(name, span.start, span.end)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="download")

    def close(self) -> None:
        # Behind a read that is under way.
        self._thread.submit(self._reader.close)
        self._thread.shutdown(wait=False)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        while part := await loop.run_in_executor(self._thread, self._reader.read, READ_SIZE_BYTES):
            yield part


def ranged_response(request: HttpRequest, servable: Servable) -> HttpResponseBase:
    """Takes a GET or HEAD request and what it asks for; returns 200, 206 or 304.

    Raises PreconditionFailed (412) or RangeNotSatisfiable (416). A HEAD is answered as the GET without Range
    would be (RFC 9110 section 14.2), without a body.
    """
    response = _unless_modified(request, servable)
    if response is None:
        span = _asked_span(request, servable)
        response = _content(request, servable, span)
    for name, value in _validators(servable).items():
        response[name] = value
    return response


def _validators(servable: Servable) -> dict[str, str]:
    return {
        "ETag": quote_etag(servable.etag),
        "Last-Modified": http_date(servable.modified_at.timestamp()),
        "Accept-Ranges": "bytes",
        # A cache may keep it, but has to ask each time: a session can be deleted, a live one grows.
        "Cache-Control": "private, no-cache",
    }


def _unless_modified(request: HttpRequest, servable: Servable) -> HttpResponseBase | None:
    modified_at = int(servable.modified_at.timestamp())
    response = get_conditional_response(request, quote_etag(servable.etag), modified_at)
    if response is not None and response.status_code == PreconditionFailed.http_status:
        raise PreconditionFailed
    return response


def _asked_span(request: HttpRequest, servable: Servable) -> Span | None:
    header = request.headers.get("Range")
    if header is None or request.method != "GET" or not _if_range_holds(request, servable):
        return None
    return parse_range(header, servable.size_bytes)


def _if_range_holds(request: HttpRequest, servable: Servable) -> bool:
    """RFC 9110 section 13.1.5: the strong ETag, or the exact date once it can't change again within its second."""
    condition = request.headers.get("If-Range")
    if condition is None:
        return True
    if '"' in condition:
        return condition.strip() == quote_etag(servable.etag)
    settled = datetime.now(UTC) - servable.modified_at > timedelta(seconds=1)
    return settled and parse_http_date_safe(condition) == int(servable.modified_at.timestamp())


def _body(servable: Servable, span: Span) -> FileBody | ObjectBody:
    if servable.remote_name:
        return ObjectBody(servable.remote_name, span)
    return FileBody(servable.path, servable.head, span)


def _content(request: HttpRequest, servable: Servable, asked: Span | None) -> HttpResponseBase:
    span = asked or Span(0, servable.size_bytes)
    status = 206 if asked else 200
    response: HttpResponseBase
    if request.method == "HEAD":
        response = HttpResponse(status=status, content_type=servable.content_type)
    else:
        content = _body(servable, span)
        response = StreamingHttpResponse(content, status=status, content_type=servable.content_type)
    response["Content-Length"] = str(span.length_bytes)
    response["Content-Disposition"] = content_disposition_header(True, servable.download_name) or "attachment"
    if asked:
        response["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{servable.size_bytes}"
    return response
