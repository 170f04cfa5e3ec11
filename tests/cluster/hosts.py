"""Hosts for the parts of a cluster: network namespaces with a link each that can be cut, or this machine alone.

A namespace has a host name, a loopback, and one veth link to this machine (addresses of RFC 2544, which is where
PostgreSQL and Redis listen beside 127.0.0.1). It lives as long as a process that sleeps in it, so that nothing of it
survives a run that is killed. It takes root and a kernel that lets root do it; `why_not` says what stands in the way.
"""

import contextlib
import ctypes
import functools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network

from tests.services import die_with_run

SUBNETS = IPv4Network("198.18.0.0/15")
SLEEP = 'hostname "$0" && ip link set lo up && echo ready && exec sleep infinity'


class ThisMachine:
    """No namespace: its parts are told apart by their ports. Being cut off is being stopped where it is."""

    prefix: Sequence[str] = ()
    address = services_at = "127.0.0.1"
    has_link = False

    def __init__(self, name: str) -> None:
        self.name = name


class Namespace:
    """A host of its own. Use it as a context manager."""

    has_link = True

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        # Another run on this machine has other numbers.
        self._subnet = list(SUBNETS.subnets(new_prefix=30))[(os.getpid() * 4 + number) % 2**15]
        self.services_at, self.address = map(str, self._subnet.hosts())
        self._link = f"scribe{self._subnet.network_address.packed.hex()}"

    def __enter__(self) -> "Namespace":
        self._cleanup = contextlib.ExitStack()
        try:
            self._make()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _make(self) -> None:
        holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-c", SLEEP, self.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=functools.partial(die_with_run, ctypes.CDLL(None), signal.SIGKILL),
        )
        self._cleanup.enter_context(holder)
        self._cleanup.callback(holder.kill)
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            raise OSError("unshare could not make a namespace")
        self.prefix = ["nsenter", "--target", str(holder.pid), "--net", "--uts", "--"]
        _ip("link", "add", self._link, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
        _ip("address", "add", f"{self.services_at}/30", "dev", self._link)
        _ip("address", "add", f"{self.address}/30", "dev", "eth0", inside=self.prefix)
        _ip("link", "set", "eth0", "up", inside=self.prefix)
        self.reconnect()
        # While the link is down nothing for the host may leave by another way.
        blackhole = ["blackhole", str(self._subnet), "metric", "9999"]
        _ip("route", "add", *blackhole)
        self._cleanup.callback(_ip, "route", "del", *blackhole)

    def cut_off(self) -> None:
        """Nothing passes the link any more; neither side is told so."""
        _ip("link", "set", self._link, "down")

    def reconnect(self) -> None:
        """The link is as it was."""
        _ip("link", "set", self._link, "up")


Host = ThisMachine | Namespace


def _ip(*arguments: str, inside: Sequence[str] = ()) -> None:
    done = subprocess.run([*inside, "ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@functools.cache
def why_not() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if missing := [name for name in ("ip", "unshare", "nsenter", "hostname") if shutil.which(name) is None]:
        return f"no {', '.join(missing)}"
    if os.geteuid() != 0:
        return "not root"
    try:
        with Namespace("probe", 0):
            return ""
    except OSError as error:
        return str(error)


@contextlib.contextmanager
def two_hosts() -> Iterator[list[Host]]:
    """Two hosts in namespaces where that is possible, else twice this machine."""
    if why_not():
        yield [ThisMachine("host-a"), ThisMachine("host-b")]
        return
    with Namespace("host-a", 1) as a, Namespace("host-b", 2) as b:
        yield [a, b]
