"""A network that breaks: a TCP proxy that cuts its first connections after some bytes."""

import asyncio
import contextlib
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

_BLOCK_BYTES = 4096


class CuttingProxy:
    """Forwards to the server at `url`; connection number n is cut once `cuts[n]` bytes have gone to it.

    With `of_answers` the bytes that come from the server count.
    Connections beyond `cuts` stay whole. `address` is "host:port"; `connections` counts what was accepted.
    """

    def __init__(self, url: str, cuts: Sequence[int], of_answers: bool = False) -> None:
        self._target = urlsplit(url)
        self._cuts = cuts
        self._of_answers = of_answers
        self.address = ""
        self.connections = 0
        self._serving: set[asyncio.Task[None] | None] = set()

    async def accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Serves one connection to its end."""
        self._serving.add(asyncio.current_task())
        limit = self._cuts[self.connections] if self.connections < len(self._cuts) else None
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        pumps = [
            asyncio.create_task(_pump(reader, far_writer, None if self._of_answers else limit)),
            asyncio.create_task(_pump(far_reader, writer, limit if self._of_answers else None)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for end in (writer, far_writer):
            end.transport.abort() if limit is not None else end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()

    async def ended(self) -> None:
        """Waits until the last connection has ended."""
        await asyncio.gather(*filter(None, self._serving))


async def _pump(reader: StreamReader, writer: StreamWriter, limit: int | None) -> None:
    passed = 0
    with contextlib.suppress(OSError):
        while (block := await reader.read(_BLOCK_BYTES)) and (limit is None or passed < limit):
            writer.write(block)
            await writer.drain()
            passed += len(block)


@contextlib.asynccontextmanager
async def cutting_proxy(url: str, cuts: Sequence[int], of_answers: bool = False) -> AsyncIterator[CuttingProxy]:
    """Runs a proxy on a free port of the loopback address."""
    proxy = CuttingProxy(url, cuts, of_answers)
    async with await asyncio.start_server(proxy.accept, "127.0.0.1", 0) as listener:
        host, port = listener.sockets[0].getsockname()[:2]
        proxy.address = f"{host}:{port}"
        yield proxy
    await proxy.ended()
