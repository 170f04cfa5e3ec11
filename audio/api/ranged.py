"""Downloads of a file or of one range of it. The whole file is never in memory.

RFC 9110 defines ranges (section 14), preconditions (section 13) and validators (section 8.8). Only one range is
supported. A request for several ranges gets the whole file, as section 14.2 allows. Django's FileResponse does not
support ranges, and under ASGI it reads the whole file before it sends the first byte.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header, http_date, parse_http_date_safe, quote_etag

from audio.errors import MasterDamagedError, PreconditionFailedError, RangeNotSatisfiableError
from audio.storage.downloads import Servable
from audio.storage.remote import remote_storage

READ_SIZE_BYTES = 256 * 1024
# No file is so long that a range has more digits.
_RANGE = re.compile(r"([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes from `start` up to, and not including, `end`."""

    start: int
    end: int

    @property
    def length_bytes(self) -> int:
        """The number of bytes."""
        return self.end - self.start


def parse_range(header: str, size_bytes: int) -> Span | None:
    """Return the span that a Range header selects.

    Args:
        header: The header's value.
        size_bytes: The length of the file.

    Returns:
        The span. It is None for a header that a server has to ignore: with another unit, with several ranges, or
        invalid.

    Raises:
        RangeNotSatisfiableError: The range is outside the file (RFC 9110 section 14.1.2).
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
        raise RangeNotSatisfiableError(size_bytes=size_bytes)
    return Span(start, end)


class FileBody:
    """The bytes of a span of a file, read in a thread, as fast as the client receives them.

    `head` replaces the first bytes of the file. Django closes the object when the response ends or the client
    disconnects.
    """

    def __init__(self, path: Path, head: bytes, span: Span) -> None:
        # The file is opened at once, so that it can still be served if it is deleted before the first byte is read.
        self._file = path.open("rb")
        self._head = head
        self._span = span

    def close(self) -> None:
        """Close the file."""
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
            raise MasterDamagedError("The file ended before its recorded length.")
        return part


class ObjectBody:
    """The bytes of a span of an object in the remote storage.

    A separate thread reads them, so that a slow storage delays no other response. Django closes the object as it closes
    a FileBody.

    Raises:
        FileNotFoundError: There is no such object.
        ObjectDamagedError: The object is too short.
        StorageUnavailableError: The storage does not answer.
    """

    def __init__(self, name: str, span: Span) -> None:
        self._reader = remote_storage().open_span(name, span.start, span.end)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="download")

    def close(self) -> None:
        """Close the connection and end the thread, after a read that is under way."""
        # The thread closes the reader, because a read may be under way there.
        self._thread.submit(self._reader.close)
        self._thread.shutdown(wait=False)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        while part := await loop.run_in_executor(self._thread, self._reader.read, READ_SIZE_BYTES):
            yield part


class SplicedBody:
    """The bytes of a span of a file between others that replace its beginning and follow its end.

    Django closes the object as it closes a FileBody.
    """

    def __init__(self, servable: Servable, span: Span) -> None:
        head, tail = servable.head, servable.tail
        ends_at = servable.size_bytes - len(tail)
        self._before = head[span.start : span.end]
        self._behind = tail[max(0, span.start - ends_at) : max(0, span.end - ends_at)]
        middle = Span(max(span.start, len(head)), min(span.end, ends_at))
        self._file = _body(replace(servable, head=b"", tail=b""), middle) if middle.length_bytes > 0 else None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._before:
            yield self._before
        if self._file is not None:
            async for part in self._file:
                yield part
        if self._behind:
            yield self._behind


def ranged_response(request: HttpRequest, servable: Servable) -> HttpResponseBase:
    """Return the response to a GET or HEAD request of a file, with status 200, 206 or 304.

    A HEAD request is answered without a body, like a GET request without Range (RFC 9110 section 14.2).

    Raises:
        PreconditionFailedError: A precondition does not hold (412).
        RangeNotSatisfiableError: The range is outside the file (416).
    """
    response = _unless_modified(request, servable)
    if response is None:
        span = _requested_span(request, servable)
        response = _content(request, servable, span)
    for name, value in _validators(servable).items():
        response[name] = value
    return response


def _validators(servable: Servable) -> dict[str, str]:
    return {
        "ETag": quote_etag(servable.etag),
        "Last-Modified": http_date(servable.modified_at.timestamp()),
        "Accept-Ranges": "bytes",
        # Caches have to revalidate each time, because a session can be deleted. They keep nothing that still grows: a
        # browser would ask for the version that it has with If-Range, and then get it without the newest sound.
        "Cache-Control": "no-store" if servable.is_growing else "private, no-cache",
    }


def _unless_modified(request: HttpRequest, servable: Servable) -> HttpResponseBase | None:
    modified_at = int(servable.modified_at.timestamp())
    response = get_conditional_response(request, quote_etag(servable.etag), modified_at)
    if response is not None and response.status_code == PreconditionFailedError.http_status:
        raise PreconditionFailedError
    return response


def _requested_span(request: HttpRequest, servable: Servable) -> Span | None:
    header = request.headers.get("Range")
    if header is None or request.method != "GET" or not _if_range_holds(request, servable):
        return None
    return parse_range(header, servable.size_bytes)


def _if_range_holds(request: HttpRequest, servable: Servable) -> bool:
    """Tell whether If-Range allows a partial response (RFC 9110 section 13.1.5).

    It must contain the strong ETag, or the exact date once the file can't change again within that second.
    """
    condition = request.headers.get("If-Range")
    if condition is None:
        return True
    if '"' in condition:
        return condition.strip() == quote_etag(servable.etag)
    settled = datetime.now(UTC) - servable.modified_at > timedelta(seconds=1)
    return settled and parse_http_date_safe(condition) == int(servable.modified_at.timestamp())


def _body(servable: Servable, span: Span) -> FileBody | ObjectBody | SplicedBody:
    if servable.tail:
        return SplicedBody(servable, span)
    if servable.remote_name:
        return ObjectBody(servable.remote_name, span)
    return FileBody(servable.path, servable.head, span)


def _content(request: HttpRequest, servable: Servable, requested: Span | None) -> HttpResponseBase:
    span = requested or Span(0, servable.size_bytes)
    status = 206 if requested else 200
    response: HttpResponseBase
    if request.method == "HEAD":
        response = HttpResponse(status=status, content_type=servable.content_type)
    else:
        content = _body(servable, span)
        response = StreamingHttpResponse(content, status=status, content_type=servable.content_type)
    response["Content-Length"] = str(span.length_bytes)
    response["Content-Disposition"] = content_disposition_header(True, servable.download_name) or "attachment"
    if requested:
        response["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{servable.size_bytes}"
    return response
