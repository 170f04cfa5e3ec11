"""The event stream (server-sent events), which continues after a broken connection."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from httpx_sse import EventSource, ServerSentEvent, SSEError

from sercuescribe_client.backoff import Backoff
from sercuescribe_client.errors import ServerError, ServerUnreachableError
from sercuescribe_client.models import Event
from sercuescribe_client.transport import MAX_ATTEMPTS, Transport, unreachable_of

# The server sends a comment every 15 seconds.
SILENCE_SECONDS = 45.0


async def listen(transport: Transport, session_ids: Sequence[str], after: str | None) -> AsyncGenerator[Event, None]:
    """Yield the events of sessions as they happen, for ever."""
    backoff, attempts, position = Backoff(), 0, after
    while True:
        try:
            async with aclosing(_listen_once(transport, session_ids, position)) as stream:
                async for received in stream:
                    backoff.reset()
                    attempts, position = 0, received.id or position
                    yield _event(received)
            error: ServerError | ServerUnreachableError | None = None
        except (ServerUnreachableError, ServerError) as caught:
            error = caught
            attempts += 1
            if attempts > MAX_ATTEMPTS or (isinstance(error, ServerError) and not error.is_retryable):
                raise
        await asyncio.sleep(backoff.next_seconds(error))


async def _listen_once(
    transport: Transport, session_ids: Sequence[str], position: str | None
) -> AsyncGenerator[ServerSentEvent, None]:
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": position} if position else {})
    parameters = {"session_id": list(session_ids)}
    try:
        async with transport.stream(
            "/api/events", parameters=parameters, headers=headers, read_timeout_seconds=SILENCE_SECONDS
        ) as response:
            async for received in EventSource(response).aiter_sse():
                if received.data:
                    yield received
    except SSEError as error:
        raise unreachable_of(transport.server, error) from error


def _event(received: ServerSentEvent) -> Event:
    shown = json.loads(received.data)
    # A library of server-sent events repeats the last id for events that have none. Progress has none.
    identifier = shown.get("id")
    position = received.id if identifier is not None else None
    return Event(shown["type"], shown["timestamp"], shown["data"], identifier, position or None)
