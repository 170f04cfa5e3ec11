"""`make chaos`: some minutes of load on a production stack, of which random parts are killed, stopped and frozen.

    python -m tests.cluster.chaos --minutes 3 --seed 7

Sessions are recorded, closed and begun anew all the while, by clients that follow the contract. It prints what it does
to the stack; at the end everything is brought back, and each recording is compared with what was sent, so with every
chunk that was acknowledged. The same seed does the same in the same order. As root it runs two hosts in network
namespaces, and also cuts the link of one.
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
from collections.abc import Callable
from pathlib import Path

from tests.cluster.clients import Client
from tests.cluster.hosts import Host, two_hosts, why_not
from tests.cluster.stack import Cluster, Part

CLIENTS = 12
SESSION_SECONDS = (2.0, 15.0)
PAUSE_SECONDS = (0.5, 4.0)
OUTAGE_SECONDS = (0.2, 6.0)
# Of all that is done, how much is done to a whole host.
CUTS = 0.2


def say(text: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Crowd:
    """Clients that record one session after the other, until they are told to come to an end."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._ending = asyncio.Event()
        self.finished: list[Client] = []
        self._tasks = [asyncio.create_task(self._record()) for _ in range(CLIENTS)]

    async def _record(self) -> None:
        while not self._ending.is_set():
            closing = asyncio.Event()
            servers = self._random.sample(self._cluster.web, len(self._cluster.web))
            client = Client(next(self._numbers), itertools.cycle(servers), closing)
            timer = asyncio.create_task(self._close_in(self._random.uniform(*SESSION_SECONDS), closing))
            try:
                await client.run()
            finally:
                timer.cancel()
            self.finished.append(client)

    async def _close_in(self, seconds: float, closing: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        closing.set()

    async def end(self) -> None:
        """Lets every client close its session, and waits for that."""
        self._ending.set()
        await asyncio.gather(*self._tasks)


class Chaos:
    """What is done to the stack, by two hands at once; `counts` says what and how often."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._seed = seed
        self._began_at = time.monotonic()
        self._taken: list[Part] = []
        self.counts: Counter[str] = Counter()

    async def rage(self, until: float) -> None:
        """Goes on until that monotonic time; everything that was struck is back when it returns."""
        await asyncio.gather(*(self._hand(random.Random(f"{self._seed} {hand}"), until) for hand in range(2)))

    async def _hand(self, chance: random.Random, until: float) -> None:
        while time.monotonic() < until:
            host = chance.choice(self._cluster.hosts) if chance.random() < CUTS else None
            part = chance.choice(self._cluster.parts())
            parts = [part] if host is None else [each for each in self._cluster.parts() if each.host is host]
            if not any(each in self._taken for each in parts):
                self._taken += parts
                await self._strike(chance, parts, host)
                self._taken = [each for each in self._taken if each not in parts]
            await asyncio.sleep(chance.uniform(*PAUSE_SECONDS))

    async def _strike(self, chance: random.Random, parts: list[Part], host: Host | None) -> None:
        seconds = chance.uniform(*OUTAGE_SECONDS)
        if host is not None:
            self._tell("cut off", host.name, seconds)
            self._cluster.cut_off(host)
            await asyncio.sleep(seconds)
            self._cluster.reconnect(host)
            return
        (part,) = parts
        deeds: dict[str, Callable[[], object]] = {"kill -9": part.kill, "stop": part.stop, "freeze": part.freeze}
        what = chance.choice(list(deeds))
        self._tell(what, part.name, seconds)
        await asyncio.to_thread(deeds[what])
        await asyncio.sleep(seconds)
        await self._bring_back(part)

    def _tell(self, what: str, whom: str, seconds: float) -> None:
        self.counts[what] += 1
        say(f"{time.monotonic() - self._began_at:6.1f} s  {what} {whom}, for {seconds:.1f} s")

    async def _bring_back(self, part: Part) -> None:
        """As a supervisor does: what does not come up, because what it needs is away too, is started again."""
        if part.is_alive():
            part.thaw()
            return
        part.launch()
        while not await asyncio.to_thread(part.comes_up):
            await asyncio.to_thread(part.wait)
            await asyncio.sleep(0.5)
            part.launch()


async def run(cluster: Cluster, minutes: float, seed: int) -> int:
    """Rages for so long, then verifies; returns how many recordings were right."""
    crowd, chaos = Crowd(cluster, seed), Chaos(cluster, seed)
    await chaos.rage(time.monotonic() + 60 * minutes)
    cluster.repair()
    await crowd.end()
    rest = cluster.web[0].rest
    for client in crowd.finished:
        await asyncio.to_thread(client.verify, rest)
    chunks = sum(client.acknowledged for client in crowd.finished)
    connections = sum(client.connections for client in crowd.finished)
    struck = ", ".join(f"{count} x {what}" for what, count in sorted(chaos.counts.items()))
    say(f"struck: {struck}")
    say(
        f"right: {len(crowd.finished)} recordings of {chunks} acknowledged chunks, each once and in its order,"
        f" over {connections} connections"
    )
    return len(crowd.finished)


def main() -> None:
    """Runs it; an exception ends it with the stack's logs left where it says."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 16))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="sercuescribe-chaos-"))
    say(f"{options.minutes:g} minutes, --seed {options.seed}, logs in {folder}")
    say(f"one machine without links to cut: {why_not()}" if why_not() else "two hosts in network namespaces")
    with two_hosts() as hosts, Cluster(folder / "stack", hosts, DISCONNECT_GRACE_SECONDS="60") as cluster:
        asyncio.run(run(cluster, options.minutes, options.seed))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
