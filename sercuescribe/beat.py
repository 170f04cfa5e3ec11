"""The scheduler of `celery beat`."""

from pathlib import Path

from celery.beat import PersistentScheduler


class Scheduler(PersistentScheduler):
    """Celery's scheduler, which also creates the data folder. Beat may be the first process on a host."""

    def setup_schedule(self) -> None:
        """Open the file of the schedule."""
        path = Path(self.schedule_filename)  # type: ignore[attr-defined]  # the stubs lack it
        path.parent.mkdir(parents=True, exist_ok=True)
        super().setup_schedule()
