"""Logging: one event a line, from whichever library it comes; for people (`plain`) or for programs (`json`).

An event is a stable word; what it is about stands in keys beside it. Keys that hold for a while (a connection's, a
task's, a request's) are bound to the context (`structlog.contextvars`) and are on every line that is written meanwhile,
also by code that knows nothing of them. Nothing that clients send, and no ticket, is written.
"""

import logging
import logging.config
from collections.abc import Callable
from typing import Any

import structlog
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from structlog.contextvars import bound_contextvars
from structlog.dev import Column, ConsoleRenderer, KeyValueColumnFormatter, plain_traceback
from structlog.stdlib import ProcessorFormatter
from structlog.typing import Processor

_ID_CHARACTERS = 64
_CHAIN: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]


def configure(config: dict[str, Any]) -> None:
    """Takes the setting LOGGING and puts it into force; Django calls it when it is set up."""
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_CHAIN, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(config)
    logging.captureWarnings(config["handlers"]["stderr"]["formatter"] == "json")


def json() -> ProcessorFormatter:
    """Returns the formatter of LOG_FORMAT=json; a traceback is one of the keys."""
    return _formatter(structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str))


def plain() -> ProcessorFormatter:
    """Returns the formatter of LOG_FORMAT=plain; a traceback follows on lines of its own."""
    columns = [
        Column("timestamp", _column()),
        Column("level", _column(shown=lambda level: str(level).upper())),
        Column("logger", _column(postfix=":")),
        Column("event", _column()),
        Column("", _column(key_style="", shown=_quoted)),
    ]
    return _formatter(ConsoleRenderer(columns=columns, exception_formatter=plain_traceback))


def _formatter(*processors: Processor) -> ProcessorFormatter:
    return ProcessorFormatter(
        foreign_pre_chain=_CHAIN, processors=[ProcessorFormatter.remove_processors_meta, *processors]
    )


def _column(
    key_style: str | None = None, shown: Callable[[object], str] = str, postfix: str = ""
) -> KeyValueColumnFormatter:
    return KeyValueColumnFormatter(key_style, value_style="", reset_style="", value_repr=shown, postfix=postfix)


def _quoted(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and text and not any(map(str.isspace, text)) else repr(text)


class Refusals(logging.Filter):
    """Requests that Django refused with 400 are a line each, without the traceback: anybody could fill the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record through."""
        if record.name.startswith("django.security"):
            record.exc_info = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


class RequestContext:
    """Middleware: binds the request, and the session that it names, to the context. Queries may hold secrets."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        with bound_contextvars(request=f"{request.method} {request.path}"):
            try:
                return self._get_response(request)
            finally:
                structlog.contextvars.unbind_contextvars("session_id")

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Django calls it once it knows the view."""
        if "session_id" in kwargs:
            structlog.contextvars.bind_contextvars(session_id=kwargs["session_id"][:_ID_CHARACTERS])
