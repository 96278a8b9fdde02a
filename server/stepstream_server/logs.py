"""How the server logs: structlog's events and the standard library's messages (grpc's, asyncio's) as one stream, on stderr.

One line per event, JSON for a collector or columns for a person. What callers sent may be part of an event; no control character
of it reaches the stream, so that it can neither begin a line nor move a terminal's cursor. Configured once, by the command line;
nobody else calls this.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor

from stepstream_server.config import LogLevel, LogSettings


def are_json(settings: LogSettings, stream: TextIO | None = None) -> bool:
    """Whether lines to `stream` (stderr) are for a collector rather than for a person."""
    return settings.format == "json" or (settings.format == "auto" and not (stream or sys.stderr).isatty())


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Sends all events of `settings.level` and above to `stream` (stderr), replacing what was configured before."""
    stream = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # so that a test can configure anew; a lookup costs microseconds, per event
    )
    handler = logging.StreamHandler(stream)
    last = _render(stream, as_json=are_json(settings, stream))
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    logging.basicConfig(handlers=[handler], force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_concerns_us)
    _filter(settings.level)


def take_level(level: LogLevel, **told: str) -> None:
    """Drops events below another level from now on; says so, whatever was dropped before or is then. told: more to say."""
    _filter("info")
    structlog.get_logger(__name__).info("log_level_taken", log_level=level, pid=os.getpid(), **told)
    _filter(level)


def _filter(name: LogLevel) -> None:
    level = logging.getLevelNamesMapping()[name.upper()]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    logging.getLogger().setLevel(level)
    logging.getLogger("grpc").setLevel(max(level, logging.INFO))  # at debug it writes a line for every call


def _concerns_us(record: logging.LogRecord) -> bool:
    """gRPC logs an error with a traceback for every client that goes away in the middle of a write to it, and for every value in
    the metadata of a call that is not UTF-8."""
    return not record.getMessage().startswith(("ExecuteBatchError raised in core", "Invalid encoding on "))


def _render(stream: TextIO, *, as_json: bool) -> list[Processor]:
    """Tracebacks are Python's own in both forms: structlog's for terminals tell values of all variables, secrets among them."""
    last: list[Processor] = [structlog.processors.JSONRenderer()]
    if not as_json:
        last = [_without_controls, structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    return [structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info, *last]


def _without_controls(logger: object, method: str, event: EventDict) -> EventDict:
    """Escapes what is not printable, as JSON does. Lines of a traceback stay lines, set in from the margin where events begin."""
    for key, value in event.items():
        if key == "exception":
            event[key] = "\n".join("  " + _printable(line) for line in str(value).split("\n"))
        elif isinstance(value, str):
            event[key] = _printable(value)
    return event


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
