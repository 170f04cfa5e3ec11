"""The sweep as a task, for `celery beat`. `manage.py serve` sweeps without it."""

import dataclasses

import structlog
from celery import shared_task

from audio import upkeep
from audio.database import AWAY
from audio.dispatch import SWEEP

logger = structlog.stdlib.get_logger(__name__)


@shared_task(name=SWEEP, ignore_result=True)
def sweep() -> None:
    """Run one sweep. If the database or the storage is not available, the next sweep does the work."""
    try:
        done = dataclasses.asdict(upkeep.sweep())
    except (*AWAY, OSError) as error:
        logger.warning("sweep_put_off", error=str(error))
        return
    if any(done.values()):
        logger.info("swept", **{name: count for name, count in done.items() if count})
