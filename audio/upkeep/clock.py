"""Detection of changes of the database's clock, before anything is removed because of its age.

Web processes notice a change with their next heartbeat (`audio.ingest.clock.ClockWatch`). A sweep may come earlier, in
a process that has just started. Therefore the times that it compares with are stored in the database.
"""

import socket
from datetime import timedelta
from pathlib import Path

from audio import ingest
from audio.ingest.clock import TOLERANCE, ClockSet, steady_seconds
from audio.models import ClockReading
from audio.upkeep.sweeps import Sweep

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# In this time the difference between the clocks of two machines grows by less than the tolerance.
_REFRESH_AFTER = timedelta(minutes=10)


def look(sweep: Sweep) -> None:
    """Restart all ages if the clock was set since the last sweep of this host."""
    if sweep.dry_run:
        return
    host, boot_id, steady = socket.gethostname(), _boot_id(), steady_seconds()
    before = ClockReading.objects.filter(host=host, boot_id=boot_id).first()
    expected = before.last_at + timedelta(seconds=steady - before.steady_seconds) if before else sweep.now
    was_set = abs(sweep.now - expected) > TOLERANCE
    if before is not None and was_set:
        ingest.restart_all_ages(ClockSet(before.first_at, expected + TOLERANCE, sweep.now))
    if before is None or was_set or expected - before.last_at > _REFRESH_AFTER:
        first_at = before.first_at if before is not None and not was_set else sweep.now
        values = {"boot_id": boot_id, "first_at": first_at, "last_at": sweep.now, "steady_seconds": steady}
        ClockReading.objects.update_or_create(host=host, defaults=values)


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
