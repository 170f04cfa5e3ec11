"""What `make chaos` does to a stack and to the sessions on it, chosen by chance."""

import asyncio
import contextlib
import os
import random
import subprocess
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
from websockets.asyncio.client import connect

from tests.cluster.clients import RECONNECT
from tests.cluster.hosts import Host
from tests.cluster.shim import Shim
from tests.cluster.stack import Cluster, Part, Web
from tests.cluster.takes import Take

PAUSE_SECONDS = (0.3, 3.0)
OUTAGE_SECONDS = (0.2, 6.0)
# Further than any age that the stack judges by (`RETENTION_DAYS`), and as little as a summer time.
CLOCK_STEPS_SECONDS = (-30 * 86400, -3600, -30, 30, 3600, 30 * 86400)
DISK_BYTES = 2 << 30
# What is left when the disk is filled: some seconds of chunks.
ROOM_BYTES = 1 << 20
RECORD_HEADER_BYTES = 64

Deed = Callable[[], Awaitable[None]]


@dataclass
class Blow:
    """Something to do, for so many seconds, to these parts, which nothing else strikes meanwhile."""

    what: str
    whom: str
    seconds: float
    deed: Deed
    parts: list[Part] = field(default_factory=list)


class Blows:
    """All there is to choose from. `takes` are the sessions that were begun, `say` tells."""

    def __init__(self, cluster: Cluster, shim: Shim | None, disk: Path | None, takes: list[Take]) -> None:
        self._cluster = cluster
        self._shim = shim
        self._disk = disk
        self._takes = takes
        self._fulls = 0

    def choose(self, chance: random.Random) -> Blow | None:
        """Choose one; None if there is nothing to do it to."""
        kinds: list[Callable[[random.Random, float], Blow | None]] = [*[self._part] * 5, *[self._host] * 2]
        kinds += [self._pause] * 3 + [self._delete, self._delete, self._rot, self._rebuild]
        kinds += [self._disk_fault] * 4 + [self._clock] * 2 if self._shim else []
        kinds += [self._full] * 2 if self._disk else []
        return chance.choice(kinds)(chance, chance.uniform(*OUTAGE_SECONDS))

    # The stack

    def _part(self, chance: random.Random, seconds: float) -> Blow:
        part = chance.choice(self._cluster.parts())
        deeds: dict[str, Callable[[], object]] = {"kill -9": part.kill, "stop": part.stop, "freeze": part.freeze}
        what = chance.choice(list(deeds))

        async def deed() -> None:
            await asyncio.to_thread(deeds[what])
            await asyncio.sleep(seconds)
            await bring_back(part)

        return Blow(what, part.name, seconds, deed, [part])

    def _host(self, chance: random.Random, seconds: float) -> Blow:
        host: Host = chance.choice(self._cluster.hosts)

        async def deed() -> None:
            self._cluster.cut_off(host)
            await asyncio.sleep(seconds)
            self._cluster.reconnect(host)

        return Blow("cut off", host.name, seconds, deed, [part for part in self._cluster.parts() if part.host is host])

    def _disk_fault(self, chance: random.Random, seconds: float) -> Blow:
        part = chance.choice([*self._cluster.web, *self._cluster.workers])
        faults = {
            "fail writes of": self._shim.failing_writes,
            "fail syncs of": self._shim.failing_syncs,
            "cut short a write of": self._shim.short_write,
        }
        what = chance.choice(list(faults))
        return Blow(what, part.name, seconds, _during(seconds, lambda: faults[what](part)), [part])

    def _clock(self, chance: random.Random, seconds: float) -> Blow:
        part = chance.choice([self._cluster.database, *self._cluster.products()])
        step = chance.choice(CLOCK_STEPS_SECONDS)
        deed = _during(seconds, lambda: self._shim.stepped_clock(part, step))
        return Blow(f"step the clock {'forth' if step > 0 else 'back'} of", part.name, seconds, deed, [part])

    def _full(self, chance: random.Random, seconds: float) -> Blow:
        return Blow("fill", "the disk", seconds, _during(seconds, self._filled))

    @contextlib.contextmanager
    def _filled(self) -> Iterator[None]:
        """The file system in memory gets as small as what is in it."""
        self._fulls += 1
        stat = os.statvfs(self._disk)
        used_bytes = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        _resize(self._disk, used_bytes + ROOM_BYTES)
        try:
            yield
        finally:
            self._fulls -= 1
            if not self._fulls:
                _resize(self._disk, DISK_BYTES)

    # The sessions

    def _pause(self, chance: random.Random, seconds: float) -> Blow | None:
        take = _one(chance, (take for take in self._takes if take.session_id and not take.closing.is_set()))
        web = chance.choice(self._cluster.web)
        return (
            Blow("pause", _name(take), seconds / 4, lambda: self._pause_for(take, web, seconds / 4)) if take else None
        )

    async def _pause_for(self, take: Take, web: Web, seconds: float) -> None:
        url = f"{web.ws_url}/api/ws/audio/{take.session_id}"
        with contextlib.suppress(*RECONNECT):
            async with asyncio.timeout(10), connect(url, compression=None, close_timeout=0.2) as socket:
                await socket.recv()
                await socket.send('{"type": "control", "action": "pause"}')
                await socket.recv()
                await asyncio.sleep(seconds)
                await socket.send('{"type": "control", "action": "resume"}')
                await socket.recv()

    def _delete(self, chance: random.Random, seconds: float) -> Blow | None:
        take = _one(chance, (take for take in self._takes if take.session_id and not take.is_doomed))
        web = chance.choice(self._cluster.web)
        return Blow("delete", _name(take), 0, lambda: self._deletion(take, web)) if take else None

    async def _deletion(self, take: Take, web: Web) -> None:
        """As a person does: once more, if it was not answered."""
        take.is_doomed = True
        async with httpx.AsyncClient(timeout=30) as http:
            for _ in range(5):
                with contextlib.suppress(httpx.HTTPError):
                    answer = await http.delete(f"{web.url}/api/audio/sessions/{take.session_id}")
                    if answer.status_code in (204, 404):
                        take.is_deleted = True
                        return
                await asyncio.sleep(1)

    def _rot(self, chance: random.Random, seconds: float) -> Blow | None:
        take = self._ready_take(chance)
        bit = chance.randrange(8)
        return (
            Blow("rot a bit of", _name(take), 0, lambda: asyncio.to_thread(self._rot_one, take, bit)) if take else None
        )

    def _rot_one(self, take: Take, bit: int) -> None:
        """A bit of a chunk in its journal is another one; then the recording is asked for anew."""
        with contextlib.suppress(psycopg.Error):
            found = self._cluster.database.query(
                "SELECT j.name, c.offset FROM audio_audiochunk c JOIN audio_journalfile j ON j.id = c.journal_id"
                " JOIN audio_recording r ON r.session_id = c.session_id"
                " WHERE c.session_id = %s AND r.state = 'ready' ORDER BY c.sequence DESC LIMIT 1",
                take.session_id,
            )
            for name, offset in found:
                take.is_rotten = True
                with (self._cluster.storage / name).open("r+b") as file:
                    file.seek(offset + RECORD_HEADER_BYTES + 100)
                    (byte,) = file.read(1)
                    file.seek(-1, os.SEEK_CUR)
                    file.write(bytes([byte ^ 1 << bit]))
                self._cluster.manage("rebuild", take.session_id)

    def _rebuild(self, chance: random.Random, seconds: float) -> Blow | None:
        take = self._ready_take(chance)
        return Blow("rebuild", _name(take), 0, lambda: asyncio.to_thread(self._ask_anew, take)) if take else None

    def _ask_anew(self, take: Take) -> None:
        self._cluster.manage("rebuild", take.session_id)

    def _ready_take(self, chance: random.Random) -> Take | None:
        return _one(chance, (take for take in self._takes if take.is_finished and not take.is_doomed))


def _one(chance: random.Random, takes: Iterable[Take]) -> Take | None:
    found = list(takes)
    return chance.choice(found) if found else None


def _name(take: Take) -> str:
    return f"take {take.number}"


def _during(seconds: float, fault: Callable[[], contextlib.AbstractContextManager[None]]) -> Deed:
    async def deed() -> None:
        with fault():
            await asyncio.sleep(seconds)

    return deed


def _resize(disk: Path, size_bytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(disk)], check=True)


async def bring_back(part: Part) -> None:
    """As a supervisor does: what does not come up, because what it needs is away too, is started again."""
    if part.is_alive():
        part.thaw()
        return
    part.launch()
    while not await asyncio.to_thread(part.comes_up):
        await asyncio.to_thread(part.wait)
        await asyncio.sleep(0.5)
        part.launch()
