"""Requests to the HTTP API: they are sent again after temporary errors, and errors are raised as exceptions."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx

from sercuescribe_client.backoff import Backoff
from sercuescribe_client.errors import NotReadyError, ScribeError, ServerError, ServerUnreachableError, error_of
from sercuescribe_client.models import Page
from sercuescribe_client.server import Server
from sercuescribe_client.version import __version__

MAX_ATTEMPTS = 5
POLL_SECONDS = 0.5
# The server has not executed the request, so it is safe to send it again.
_NOT_DONE = (429, 503)
Progress = Callable[[float], None]
Parameters = Mapping[str, Any]


class Transport:
    """The connections to one server."""

    def __init__(self, server: Server, timeout_seconds: float, trust_env: bool) -> None:
        self.server = server
        self.trust_env = trust_env
        self._http = httpx.AsyncClient(
            base_url=server.url,
            headers={**server.headers, "User-Agent": f"sercuescribe-client/{__version__}"},
            timeout=timeout_seconds,
            trust_env=trust_env,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def json(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, parameters: Parameters | None = None
    ) -> Any:
        """Return the JSON of a response; None if it has no body. Temporary errors are retried.

        Raises:
            ServerError: The server rejected the request.
            ServerUnreachableError: The server did not answer.
        """
        backoff = Backoff()
        for attempt in range(MAX_ATTEMPTS):
            try:
                return _content(await self._send(method, path, body, parameters))
            except _RepeatableError as failure:
                error = failure.error
            if attempt < MAX_ATTEMPTS - 1:
                await asyncio.sleep(backoff.next_seconds(error))
        raise error

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, parameters: Parameters | None
    ) -> httpx.Response:
        try:
            response = await self._http.request(method, path, json=body, params=_query(parameters))
        except httpx.TransportError as error:
            unreachable = unreachable_of(self.server, error)
            if method == "GET" or isinstance(error, httpx.ConnectError):
                raise _RepeatableError(unreachable) from error
            raise unreachable from error
        # A task is answered with 202, and so is a result that is not ready.
        if response.is_success and (response.status_code != 202 or method != "GET"):
            return response
        failure = response_error(response)
        if response.status_code in _NOT_DONE:
            raise _RepeatableError(failure)
        raise failure

    async def ready_json(
        self, path: str, *, parameters: Parameters | None = None, on_progress: Progress | None = None
    ) -> Any:
        """Return the JSON of a result, when it has been made."""
        while True:
            try:
                return await self.json("GET", path, parameters=parameters)
            except NotReadyError as error:
                await wait_while_made(error, on_progress)

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        *,
        parameters: Parameters | None = None,
        headers: Mapping[str, str] | None = None,
        read_timeout_seconds: float | None = None,
        accepted: Sequence[int] = (),
    ) -> AsyncIterator[httpx.Response]:
        """Yield a response whose body is read as it comes. It is not retried.

        Raises:
            ServerError: The status is neither 200 nor one of those that are accepted.
            ServerUnreachableError: The server did not answer, or the connection broke.
        """
        timeout = self._http.timeout if read_timeout_seconds is None else httpx.Timeout(read_timeout_seconds)
        try:
            async with self._http.stream(
                "GET", path, params=_query(parameters), headers=headers, timeout=timeout
            ) as response:
                if response.status_code not in (200, *accepted):
                    await response.aread()
                    raise response_error(response)
                yield response
        except httpx.TransportError as error:
            raise unreachable_of(self.server, error) from error

    async def page(self, path: str, parameters: Parameters) -> Page[Any]:
        """Return one page of a list."""
        answer = await self.json("GET", path, parameters=parameters)
        following = parse_qs(urlsplit(answer["next"] or "").query).get("cursor")
        return Page(answer["results"], following[0] if following else None)

    async def items(self, path: str, parameters: Parameters) -> AsyncGenerator[Any, None]:
        """Yield all items of a list, page by page."""
        cursor: str | None = None
        while True:
            found = await self.page(path, {**parameters, "cursor": cursor})
            for item in found.items:
                yield item
            cursor = found.next_cursor
            if cursor is None:
                return


class _RepeatableError(Exception):
    """A failure after which the same request may be sent again."""

    def __init__(self, error: ScribeError) -> None:
        super().__init__(str(error))
        self.error = error


def segment(text: str) -> str:
    """Return an id as a part of a path."""
    return quote(text, safe="")


def _query(parameters: Parameters | None) -> httpx.QueryParams:
    """Return the parameters that have a value. One that is a sequence is repeated."""
    pairs: list[tuple[str, str | int | float | bool | None]] = []
    for name, value in (parameters or {}).items():
        values = value if isinstance(value, (list, tuple)) else [value]
        pairs.extend((name, _text(each)) for each in values if each is not None)
    return httpx.QueryParams(pairs)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _content(response: httpx.Response) -> Any:
    return response.json() if response.content else None


def response_error(response: httpx.Response) -> ServerError:
    """Return the error in a response."""
    retry_after = response.headers.get("Retry-After")
    try:
        message = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        message = None
    if not isinstance(message, dict):
        reason = response.reason_phrase or "without a reason"
        message = {"detail": f"The server answered {response.status_code} {reason}.", "code": "unexpected_answer"}
    return error_of(message, response.status_code, retry_after)


def unreachable_of(server: Server, error: Exception) -> ServerUnreachableError:
    """Return the error for a server that did not answer."""
    reason = str(error) or type(error).__name__
    return ServerUnreachableError(f"The server {server.url} does not answer: {reason}.")


async def wait_while_made(error: NotReadyError, on_progress: Progress | None) -> None:
    """Report the progress of a result, and wait before the next request for it."""
    progress = error.details.get("progress")
    if on_progress is not None and isinstance(progress, (int, float)):
        on_progress(float(progress))
    await asyncio.sleep(min(error.retry_after_seconds or POLL_SECONDS, POLL_SECONDS))


class Deadline:
    """The time at which waiting ends. Without seconds it never ends."""

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else time.monotonic() + seconds

    def check(self, what: str) -> None:
        """Raise TimeoutError if the moment has passed."""
        if self._at is not None and time.monotonic() > self._at:
            raise TimeoutError(what)
