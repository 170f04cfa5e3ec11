"""A Celery worker that starts fast: `python -m sercuescribe.celery_worker` with the options of `celery worker`.

It loads only this command. The other commands of Celery take longer to load than the worker itself, and use memory.
"""

from celery.bin.base import CLIContext
from celery.bin.worker import worker

from sercuescribe.celery import app


def main() -> None:
    """Run a worker with the options of the command line."""
    worker.params.extend(app.user_options["worker"])
    worker.main(prog_name="celery worker", obj=CLIContext(app=app, no_color=False, workdir=None, quiet=True))


if __name__ == "__main__":
    main()
