"""How the server logs: structlog's events and the standard library's messages (grpc's, asyncio's) as one stream, on stderr.

One line per event, JSON for a collector or columns for a person. Configured once, by the command line; nobody else calls this.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

import structlog
from structlog.typing import Processor

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
    """gRPC logs an error with a traceback for every client that goes away in the middle of a write to it."""
    return not record.getMessage().startswith("ExecuteBatchError raised in core")


def _render(stream: TextIO, *, as_json: bool) -> list[Processor]:
    last: list[Processor] = [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    if as_json:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
