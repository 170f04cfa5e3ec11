"""The task that does a chore of the upkeep."""

import structlog
from celery import shared_task

from audio import upkeep
from audio.database import AWAY
from audio.dispatch import CHORE

logger = structlog.stdlib.get_logger(__name__)


@shared_task(name=CHORE, ignore_result=True)
def chore(name: str) -> None:
    """Take one step of a chore; what fails is done when it is due again."""
    try:
        upkeep.run_chore(name)
    except (*AWAY, OSError) as error:
        logger.warning("chore_put_off", chore=name, error=str(error))
