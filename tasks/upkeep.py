"""The task that runs one step of a chore."""

import structlog
from celery import shared_task

from audio import upkeep
from audio.database import AWAY
from audio.dispatch import CHORE

logger = structlog.stdlib.get_logger(__name__)


@shared_task(name=CHORE, ignore_result=True)
def chore(name: str) -> None:
    """Run one step of a chore. A step that fails runs again when the chore is due again."""
    try:
        upkeep.run_chore(name)
    except (*AWAY, OSError) as error:
        logger.warning("chore_put_off", chore=name, error=str(error))
