"""Logging: one event per line, also from libraries, for people (`plain`) or for programs (`json`).

The event is a stable word, and its keys have the details. Keys of a connection, a task or a request are bound to the
context (`structlog.contextvars`). They are on every line that is written meanwhile, even by code that does not know
them. Content that clients send is never logged, and neither are tickets.
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
    """Apply the setting LOGGING. Django calls this function when it is set up."""
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_CHAIN, ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(config)
    logging.captureWarnings(config["handlers"]["stderr"]["formatter"] == "json")


def json() -> ProcessorFormatter:
    """Return the formatter of LOG_FORMAT=json. A traceback is one of the keys."""
    return _formatter(structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str))


def plain() -> ProcessorFormatter:
    """Return the formatter of LOG_FORMAT=plain. A traceback follows on lines of its own."""
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


class Rejections(logging.Filter):
    """A filter that shortens the log of each request that Django rejects with 400 to one line.

    With tracebacks anybody could fill the log.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Remove the traceback of such a record, and let every record pass."""
        if record.name.startswith("django.security"):
            record.exc_info = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


class RequestContext:
    """A middleware that binds the request, and the session that it names, to the context of the log.

    The query string is left out, because it may contain secrets.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        """Handle a request with its method and path in the context."""
        with bound_contextvars(request=f"{request.method} {request.path}"):
            try:
                return self._get_response(request)
            finally:
                structlog.contextvars.unbind_contextvars("session_id")

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Bind the session in the URL. Django calls this method when it has found the view."""
        if "session_id" in kwargs:
            structlog.contextvars.bind_contextvars(session_id=kwargs["session_id"][:_ID_CHARACTERS])
