"""The task that does a chore of the upkeep."""

from celery import shared_task

from audio import upkeep
from audio.dispatch import CHORE


@shared_task(name=CHORE, ignore_result=True)
def chore(name: str) -> None:
    """Takes one step of a chore; what fails is done when it is due again."""
    upkeep.run_chore(name)
