"""`make chaos`: some minutes of load on a production stack, to which everything is done that it has to outlive.

    python -m tests.cluster.chaos --minutes 3 --seed 7

Sessions are recorded, closed and begun anew all the while, by clients that follow the contract, while `blows.py` does
its work on the stack and on the sessions. In between, a backup of the database is made, and later put back and
completed by `reindex`. At the end everything is brought back, and `check.py` compares it with what was sent and
acknowledged. The same seed chooses the same blows in the same order. As root it runs two hosts in network namespaces,
cuts links, and keeps the storage on a small disk that can be filled.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.cluster.blows import DISK_BYTES, PAUSE_SECONDS, Blows, bring_back
from tests.cluster.check import Checked, check
from tests.cluster.hosts import two_hosts, why_not
from tests.cluster.shim import Shim
from tests.cluster.stack import Cluster, Part
from tests.cluster.takes import Source, Take
from tests.disk import small_disk

CLIENTS = 10
HANDS = 3
SESSION_SECONDS = (2.0, 15.0)
# Between two of these the database is backed up, or put back.
ROUND_SECONDS = 20.0
# The sources of a session: most have one, with a name.
SOURCES = [("mic",), ("mic",), ("mic",), ("mic", "desk"), ("",), ("mic", "")]
DIFFERENCES_TOLD = 20
# Whatever the hosts' clocks say, nothing is old here.
ENVIRONMENT = {"DISCONNECT_GRACE_SECONDS": "30", "RETENTION_DAYS": "7"}


def say(text: str) -> None:
    """Write a line to standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Crowd:
    """Clients that record one session after the other, until they are told to come to an end."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(f"{seed} crowd")
        self._numbers = itertools.count()
        self._ending = asyncio.Event()
        self.takes: list[Take] = []
        self._tasks = [asyncio.create_task(self._record()) for _ in range(CLIENTS)]

    async def _record(self) -> None:
        while not self._ending.is_set():
            take = self._new_take()
            timer = asyncio.create_task(self._close_in(self._random.uniform(*SESSION_SECONDS), take.closing))
            try:
                await take.run()
            finally:
                timer.cancel()

    def _new_take(self) -> Take:
        take = Take(next(self._numbers))
        for index, name in enumerate(self._random.choice(SOURCES)):
            servers = self._random.sample(self._cluster.web, len(self._cluster.web))
            take.sources.append(Source(take, index, name, itertools.cycle(servers)))
        self.takes.append(take)
        return take

    async def _close_in(self, seconds: float, closing: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        closing.set()

    async def end(self) -> None:
        """Let every client close its session, and wait for that."""
        self._ending.set()
        await asyncio.gather(*self._tasks)


class Chaos:
    """Strikes with several hands at once; `counts` says how often with what."""

    def __init__(self, cluster: Cluster, seed: int, blows: Blows, takes: list[Take]) -> None:
        self._cluster = cluster
        self._blows = blows
        self._takes = takes
        self._hands = [random.Random(f"{seed} {hand}") for hand in range(HANDS)]
        self._began_at = time.monotonic()
        self._taken: list[Part] = []
        self._unkept: list[Take] = []
        self._has_backup = False
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    async def rage(self, seconds: float) -> None:
        """Go on for so long; what was struck is back when it returns."""
        until = self._began_at + seconds
        while (left := until - time.monotonic()) > 0:
            end = time.monotonic() + min(left, ROUND_SECONDS)
            await asyncio.gather(*(self._hand(chance, end) for chance in self._hands))
            if end < until:
                await (self.restore() if self._has_backup else self.back_up())

    async def _hand(self, chance: random.Random, until: float) -> None:
        while time.monotonic() < until:
            blow = self._blows.choose(chance)
            if blow is not None and not any(part in self._taken for part in blow.parts):
                self._taken += blow.parts
                self._tell(blow.what, f"{blow.what} {blow.whom}, for {blow.seconds:.1f} s")
                await blow.deed()
                self._taken = [part for part in self._taken if part not in blow.parts]
            await asyncio.sleep(chance.uniform(*PAUSE_SECONDS))

    def _tell(self, what: str, sentence: str) -> None:
        self.counts[what] += 1
        say(f"{time.monotonic() - self._began_at:6.1f} s  {sentence}")

    async def back_up(self) -> None:
        """Stop PostgreSQL for a copy of its files, while clients record."""
        self._tell("back up", "back up the database")
        await asyncio.to_thread(self._cluster.database.stop)
        # What is deleted from here on, the copy brings back.
        self._unkept = [take for take in self._takes if not take.is_deleted]
        await asyncio.to_thread(self._cluster.database.copy_files)
        await bring_back(self._cluster.database)
        self._has_backup = True

    async def restore(self) -> None:
        """As the operator's page says: stop everything, put the database back, `reindex`, start."""
        self._tell("restore", "put an older backup of the database back, and reindex")
        for part in self._cluster.products():
            ends: list[Callable[[], object]] = [part.stop, part.kill]
            await asyncio.to_thread(self._hands[0].choice(ends))
        await asyncio.to_thread(self._cluster.database.stop)
        await asyncio.to_thread(self._cluster.database.put_copy_back)
        await bring_back(self._cluster.database)
        for take in self._unkept:
            take.is_forgotten |= take.is_doomed
        result = await asyncio.to_thread(self._cluster.manage, "reindex", "--json")
        if not result.stdout:
            self.faults.append(f"reindex on a backup: exit code {result.returncode}: {result.stderr[-1000:]}")
        for part in self._cluster.products():
            await bring_back(part)
        self._has_backup = False


async def run(cluster: Cluster, seconds: float, seed: int, shim: Shim | None = None, disk: Path | None = None) -> bool:
    """Rage for so long, then check; return whether all is as it should be."""
    crowd = Crowd(cluster, seed)
    chaos = Chaos(cluster, seed, Blows(cluster, shim, disk, crowd.takes), crowd.takes)
    await chaos.rage(seconds)
    cluster.repair()
    await crowd.end()
    done = await asyncio.to_thread(check, cluster, crowd.takes, chaos.counts["restore"])
    done.differences += chaos.faults
    _report(done, chaos, crowd)
    return not done.differences


def _report(done: Checked, chaos: Chaos, crowd: Crowd) -> None:
    connections = sum(source.connections for take in crowd.takes for source in take.sources)
    say(f"struck: {', '.join(f'{count} x {what}' for what, count in sorted(chaos.counts.items()))}")
    say(
        f"compared: {done.recordings} recordings of {done.chunks} acknowledged chunks, over {connections} connections;"
        f" {done.deleted} deleted sessions; {done.reindexed} sessions made again by reindex"
    )
    for difference in done.differences[:DIFFERENCES_TOLD]:
        say(f"DIFFERENT: {difference}")
    say(f"{len(done.differences)} differences" if done.differences else "all as it should be")


@contextlib.contextmanager
def made_cluster(folder: Path) -> Iterator[tuple[Cluster, Shim | None, Path | None]]:
    """A stack of its own, with all faults that can be had here; says which can't."""
    shim: Shim | None = Shim(folder / "faults")
    with contextlib.ExitStack() as stack:
        if reason := why_not():
            say(f"no links are cut, no disk is filled: {reason}")
        disk = None if reason else folder / "stack" / "audio"
        if disk:
            disk.parent.mkdir()
            stack.enter_context(small_disk(disk, str(DISK_BYTES)))
        cluster = Cluster(folder / "stack", stack.enter_context(two_hosts()), **ENVIRONMENT)
        if reason := shim.compile():
            say(f"no write fails, no clock is stepped: {reason}")
            shim = None
        else:
            shim.load_into(cluster)
        yield stack.enter_context(cluster), shim, disk


def main() -> int:
    """Run it; return the exit code. What differs leaves the stack's logs and files where it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 16))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sercuescribe-chaos-"))
    folder.chmod(0o755)
    say(f"{options.minutes:g} minutes, --seed {options.seed}, logs in {folder}")
    with made_cluster(folder) as (cluster, shim, disk):
        is_right = asyncio.run(run(cluster, 60 * options.minutes, options.seed, shim, disk))
    if is_right:
        shutil.rmtree(folder)
    else:
        say(f"the logs are in {folder / 'stack'}")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
