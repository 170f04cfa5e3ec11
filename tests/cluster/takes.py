"""Sessions of `make chaos`: one source or two, named or not, each with a list of chunks that is fixed from the start.

A chunk says in its first bytes whose it is and which, so that a recording can be taken apart again. What was
acknowledged, and for which place of the session, is kept over every connection.
"""

import asyncio
import contextlib
import json
import random
import struct
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect

from tests.client import CLOSE_SESSION
from tests.cluster.clients import CHUNK_BYTES, PACE_SECONDS, PATIENCE_SECONDS, RECONNECT, RETRY_SECONDS
from tests.cluster.stack import Web

_ID = struct.Struct("<4sIII")
_MAGIC = b"take"
ENDED = ("session_closed", "session_not_found")

ChunkId = tuple[int, int, int]


def chunk(take: int, source: int, number: int) -> bytes:
    """Return the chunk of that number."""
    head = _ID.pack(_MAGIC, take, source, number)
    return head + random.Random(f"{take} {source} {number}").randbytes(CHUNK_BYTES - _ID.size)


def chunk_id(data: bytes) -> ChunkId | None:
    """Return which chunk it is (take, source, number); None unless every byte of it is as it was sent."""
    if len(data) != CHUNK_BYTES or data[:4] != _MAGIC:
        return None
    _, *found = _ID.unpack_from(data)
    take, source, number = found
    return (take, source, number) if chunk(take, source, number) == data else None


class FaultError(Exception):
    """What a client was told contradicts the contract."""


class EndedError(Exception):
    """The session takes no more, and it was not this client that closed it."""


@dataclass
class Take:
    """One session. `closing` tells its sources to come to an end; the first one opens and closes it.

    `ended_by` is the code that told that somebody else has ended it. `is_doomed`: its deletion was asked for;
    `is_deleted`: and confirmed. `is_forgotten`: a database was put back that may know it still, or again.
    """

    number: int
    session_id: str = ""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    sources: list["Source"] = field(default_factory=list)
    ended_by: str = ""
    is_doomed: bool = False
    is_deleted: bool = False
    is_forgotten: bool = False
    is_finished: bool = False
    is_rotten: bool = False
    faults: list[str] = field(default_factory=list)

    @property
    def acknowledged(self) -> dict[int, ChunkId]:
        """Which chunk was acknowledged for which place."""
        return {
            place: (self.number, source.index, number)
            for source in self.sources
            for place, number in source.places.items()
        }

    async def run(self) -> None:
        """Record it, with all its sources, to its end; what contradicts the contract is in `faults` afterwards."""
        await asyncio.gather(*(self._run(source) for source in self.sources))
        self.is_finished = True

    async def _run(self, source: "Source") -> None:
        try:
            await source.run()
        except EndedError as ended:
            self.ended_by = str(ended)
        except FaultError as fault:
            self.faults.append(f"take {self.number} ({self.session_id}), source {source.index}: {fault}")
        finally:
            source.ended.set()
            if source.is_first:
                self.opened.set()


@dataclass
class Source:
    """One client. `sent` is the number that was sent last, `last_sent` the highest ever, `stored` the last that the
    server counts; `places` has the numbers that were acknowledged by their places; `first_numbers` is where each
    connection began. `goal` is how many chunks there are, once that is fixed; `has_asked` to close behind them."""

    take: Take
    index: int
    name: str
    servers: Iterator[Web]
    sent: int = 0
    stored: int = 0
    last_sent: int = 0
    goal: int = 0
    has_asked: bool = False
    connections: int = 0
    pauses: int = 0
    places: dict[int, int] = field(default_factory=dict)
    first_numbers: list[int] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_first(self) -> bool:
        """Whether it opens and closes the session."""
        return self.index == 0

    async def run(self) -> None:
        """Connect again and again until its part is done. Raises EndedError, FaultError."""
        if not self.is_first:
            await self.take.opened.wait()
        while True:
            with contextlib.suppress(*RECONNECT):
                async with self._connected(next(self.servers)) as socket:
                    await self._greeted(socket)
                    await _Connection(self, socket).run()
                    return
            await asyncio.sleep(RETRY_SECONDS)

    @contextlib.asynccontextmanager
    async def _connected(self, web: Web) -> AsyncIterator[ClientConnection]:
        query = f"?{urlencode({'source': self.name})}" if self.name else ""
        async with connect(
            f"{web.ws_url}/api/ws/audio/{self.take.session_id}{query}",
            compression=None,
            open_timeout=PATIENCE_SECONDS,
            close_timeout=0.2,
            ping_interval=2,
            ping_timeout=PATIENCE_SECONDS,
        ) as socket:
            yield socket

    async def _greeted(self, socket: ClientConnection) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            greeting = checked(json.loads(await socket.recv()))
        self.take.session_id = greeting["session_id"]
        self.take.opened.set()
        self.connections += 1
        if self.name:
            stored = greeting["source_chunk_count"]
            if not self.stored <= stored <= self.last_sent:
                raise FaultError(
                    f"{self.stored} acknowledged and {self.last_sent} sent, but the greeting counts {stored}"
                )
            self.sent = self.stored = stored
        self.first_numbers.append(self.sent + 1)

    def has_more(self) -> bool:
        """Whether there is a chunk to send. When the take comes to its end, the number of chunks is fixed."""
        if not self.take.closing.is_set():
            return True
        self.goal = self.goal or self.last_sent
        return bool(self.name) and self.sent < self.goal

    def next_chunk(self) -> bytes:
        """Return the next chunk to send."""
        self.sent += 1
        self.last_sent = max(self.last_sent, self.sent)
        return chunk(self.take.number, self.index, self.sent)

    def acknowledge(self, number: int, place: int) -> None:
        """Note an acknowledgement. Raises FaultError."""
        if self.name and number != self.stored + 1:
            raise FaultError(f"chunk {number} was acknowledged behind {self.stored}")
        self.stored = number
        self.places[place] = number


class _Connection:
    """One connection of a source, which sends without waiting; `_waiting` is what has no answer yet, in order."""

    def __init__(self, source: Source, socket: ClientConnection) -> None:
        self._source = source
        self._socket = socket
        self._waiting: deque[int | asyncio.Future[str]] = deque()
        self._is_rejected = False

    async def run(self) -> None:
        """Send, and take the answers, until the source's part is done."""
        sending = asyncio.create_task(self._send())
        receiving = asyncio.create_task(self._receive())
        try:
            await asyncio.wait([sending, receiving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, receiving):
                if not task.done():
                    task.cancel()
            results = await asyncio.gather(sending, receiving, return_exceptions=True)
        # What the server said explains why nothing can be sent any more.
        for result in reversed(results):
            if isinstance(result, Exception):
                raise result

    async def _send(self) -> None:
        take, is_closer = self._source.take, self._source.is_first
        while True:
            while self._is_rejected or self._source.has_more():
                if self._is_rejected:
                    await self._resume()
                else:
                    await self._send_next()
            if is_closer and len(take.sources) > 1:
                await asyncio.gather(*(source.ended.wait() for source in take.sources[1:]))
            self._source.has_asked = is_closer
            await self._ask("close_session" if is_closer else "ping")
            if not self._is_rejected:
                return

    async def _send_next(self) -> None:
        data = self._source.next_chunk()
        self._waiting.append(self._source.sent)
        await self._socket.send(data)
        await asyncio.sleep(PACE_SECONDS)

    async def _resume(self) -> None:
        """Somebody has paused the session: go on from what was stored."""
        self._source.pauses += 1
        if await self._ask("resume") == "":
            self._is_rejected = False
            if self._source.name:
                self._source.sent = self._source.stored

    async def _ask(self, action: str) -> str:
        """Send a control message; return the code of the error that answered it, empty if none did."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        await self._socket.send(json.dumps({**CLOSE_SESSION, "action": action}))
        return await answer

    async def _receive(self) -> None:
        while True:
            answer = json.loads(await self._socket.recv())
            if "event" in answer:
                continue
            if answer.get("code") == "session_paused":
                self._rejected()
            elif checked(answer)["status"] == "completed":
                self._completed()
                return
            else:
                self._answered(answer["chunk_count"])

    def _rejected(self) -> None:
        self._is_rejected = True
        if self._waiting and isinstance(asked := self._waiting.popleft(), asyncio.Future):
            asked.set_result("session_paused")

    def _completed(self) -> None:
        if not (self._source.is_first and self._waiting and isinstance(self._waiting[0], asyncio.Future)):
            raise EndedError("session_closed")

    def _answered(self, count: int) -> None:
        if not self._waiting:
            raise FaultError("an answer to nothing")
        match self._waiting.popleft():
            case int(number):
                self._source.acknowledge(number, count)
            case asked:
                asked.set_result("")


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that is no error. Raises ConnectionError for a temporary one, EndedError, FaultError."""
    if "error" not in answer:
        return answer
    if answer["retryable"]:
        raise ConnectionError(answer["error"])
    if answer["code"] in ENDED:
        raise EndedError(answer["code"])
    raise FaultError(f"{answer['code']}: {answer['error']}")
