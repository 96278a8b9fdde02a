"""What the main process and its workers say to each other beside the engine port: beginning, serving, draining, counting."""

from __future__ import annotations

from dataclasses import dataclass

from stepstream_server.config import LogLevel
from stepstream_server.engine.ports import Limits
from stepstream_server.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Begin:
    """To a worker, first: what it needs to listen."""

    listen: str  # HOST:PORT; others listen there too
    health: str  # likewise, for probes alone; "" for nowhere
    door: str  # DoorSettings as JSON, this worker's share of them
    log: str  # LogSettings as JSON
    access: str  # Access as JSON, this worker's share of it; empty: whoever reaches the server may call
    version: str  # of the server
    specs: list[ModelSpec]  # of the models, in the order of the worker's lines to their engines


@dataclass(frozen=True, slots=True)
class Listening:
    """From a worker: it listens, and nothing is served yet. Or it cannot, for the reason given."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class Serve:
    """To a worker: every model is warm."""

    limits: list[Limits]  # of each model's engine


@dataclass(frozen=True, slots=True)
class LogAt:
    """To a worker: take another level of the log."""

    level: LogLevel


@dataclass(frozen=True, slots=True)
class TakeAccess:
    """To a worker: other principals may call from now on, or may have more or less."""

    access: str  # as of Begin


@dataclass(frozen=True, slots=True)
class DrainStreams:
    """To a worker: end all streams, once what was accepted is answered and no stream of any worker holds sessions. Answered by
    Drained."""

    seconds: float  # that it may take
    resume: bool  # whether durable sessions will be found again


@dataclass(frozen=True, slots=True)
class Drained:
    """From a worker."""

    complete: bool  # whether every stream has ended so


@dataclass(frozen=True, slots=True)
class Fail:
    """To a worker: an engine has crashed; probes shall hear of it."""


@dataclass(frozen=True, slots=True)
class Count:
    """To a worker: asks for Counts, at every scrape and as its heartbeat."""


@dataclass(frozen=True, slots=True)
class Counts:
    """From a worker: calls that have ended since it was last asked, and what the process has used."""

    calls: list[tuple[str, str, str, int]]  # service, method, name of the status code, how many
    cpu_seconds: float  # user and system, since it was started
    resident_bytes: int


MESSAGES = (Begin, Listening, Serve, LogAt, TakeAccess, DrainStreams, Drained, Fail, Count, Counts)
