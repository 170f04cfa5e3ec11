"""The common parts of all commands: their shared options, their output, and their exit codes.

The exit code tells a script what went wrong:

| code | meaning |
| --- | --- |
| 0 | The command succeeded. |
| 1 | The server rejected the request, or something else failed. |
| 2 | The command line is wrong. |
| 3 | The server does not answer. |
| 4 | The API key is missing or not valid, or its scopes do not allow the request. |
| 5 | The session, recording or key does not exist, or is not yours. |
| 6 | The recording is not complete, or a download is damaged. |
| 130 | The command was interrupted. |
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from sercuescribe_client.client import AsyncClient
from sercuescribe_client.errors import (
    DownloadDamagedError,
    IncompleteError,
    NotAllowedError,
    NotAuthenticatedError,
    NotFoundError,
    ScribeError,
    ServerError,
    ServerUnreachableError,
    UsageError,
)
from sercuescribe_client.server import KEY_VARIABLE, URL_VARIABLE

FAILED = 1
USAGE = 2
INTERRUPTED = 130
BROKEN_PIPE = 141
_EXIT_CODES: tuple[tuple[tuple[type[Exception], ...], int], ...] = (
    ((UsageError,), USAGE),
    ((ServerUnreachableError,), 3),
    ((NotAuthenticatedError, NotAllowedError), 4),
    ((NotFoundError,), 5),
    ((IncompleteError, DownloadDamagedError), 6),
)

Url = Annotated[
    str | None, typer.Option("--url", envvar=URL_VARIABLE, help="The address of the server.", show_default=False)
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=KEY_VARIABLE,
        help="An API key. Others can see it in the list of processes, so prefer the variable.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]

# Errors and progress go to the standard error, so that the standard output can be used by another program.
messages = Console(stderr=True, highlight=False, soft_wrap=True)


class InterruptedByUserError(ScribeError):
    """Somebody has pressed Ctrl-C."""


def execute(
    work: Callable[[AsyncClient], Coroutine[Any, Any, None]], url: str | None, api_key: str | None, as_json: bool
) -> None:
    """Run the work of a command with a client. An error ends the command with a sentence and an exit code."""

    async def run() -> None:
        async with AsyncClient(url, api_key) as client:
            await work(client)

    try:
        asyncio.run(run())
    except BrokenPipeError:
        # The reader of the output has closed it. Python would complain about it when it flushes the output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(BROKEN_PIPE) from None
    except (ScribeError, TimeoutError, OSError) as error:
        _say(error, as_json)
        raise typer.Exit(_exit_code(error)) from None
    except KeyboardInterrupt:
        _say(InterruptedByUserError("Interrupted."), as_json)
        raise typer.Exit(INTERRUPTED) from None


def _exit_code(error: Exception) -> int:
    if isinstance(error, InterruptedByUserError):
        return INTERRUPTED
    return next((code for kinds, code in _EXIT_CODES if isinstance(error, kinds)), FAILED)


def _say(error: Exception, as_json: bool) -> None:
    sentence = f"{error.filename}: {error.strerror}." if isinstance(error, OSError) and error.filename else str(error)
    if as_json:
        code = error.code if isinstance(error, ServerError) else type(error).__name__
        details = error.details if isinstance(error, ServerError) else {}
        detail = error.detail if isinstance(error, ServerError) else sentence
        typer.echo(json.dumps({"detail": detail, "code": code, **details}), err=True)
    else:
        messages.print(f"scribe: {sentence}", markup=False)


def write_json(value: object) -> None:
    """Write a value as JSON to the standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def pairs_of(texts: Sequence[str]) -> dict[str, str]:
    """Return `KEY=VALUE` arguments as a dictionary.

    Raises:
        UsageError: One of them has no `=`.
    """
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"Write metadata as KEY=VALUE, not {text!r}.")
        found[key] = value
    return found
