"""The engine port, outwards: what the engine tells front doors, and the two Protocols that carry both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from stepstream_server.engine.ports.basics import Ending, Ints, Tensor
from stepstream_server.engine.ports.commands import Command
from stepstream_server.engine.ports.observer import InferenceTotals
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.snapshots import Snapshot


@dataclass(frozen=True, slots=True)
class Limits:
    """The size that an engine was built for, for front doors to say and to plan by."""

    window_steps: int  # a session's unacknowledged steps
    window_bytes: int  # of a session's unacknowledged outputs
    capacity: int  # sessions at once
    max_batch: int  # rows of one launch
    idle_ttl_seconds: float  # a session without a step for so long is closed, unless it was opened with less
    batching: int  # steps of many sessions are computed in a multiple of so many rows; 0: one session after the other
    replay_steps: int = 0  # inputs that a client of a durable session should be ready to keep; 0: there is no store


@dataclass(frozen=True, slots=True)
class Opened:
    """A session as the opener or the attaching stream needs to know it."""

    id: str
    secret: bytes  # empty when attached rather than opened
    session: int
    generation: int
    next_seq: int
    acked: int
    epoch: int = 0
    durable: bool = False
    durable_seq: int = 0  # steps below it are in the store
    bitwise: bool = True  # whether outputs are bitwise those of a session that was never restored


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as it can be seen without touching it. Times in seconds."""

    id: str
    quarantined: bool
    next_seq: int
    acked: int
    pending_steps: int
    age: float
    idle: float
    idle_ttl: float
    attached: bool
    slot: int
    epoch: int = 0
    durable: bool = False
    durable_seq: int = 0  # steps below it are in the store
    stored: bool = False  # whether it is only there


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the open sessions."""

    sessions: list[SessionInfo]
    next: int | str | None  # where the next page starts, as of List; None: there is no more


@dataclass(frozen=True, slots=True)
class TenantUse:
    """The sessions and rollouts that a tenant has now."""

    tenant: str
    sessions: int  # open
    rollouts: int  # under way


@dataclass(frozen=True, slots=True)
class Forked:
    """Sessions that began where another stood."""

    next_seq: int
    sessions: list[Opened | StepStreamError]


@dataclass(frozen=True, slots=True)
class Imported:
    """A session that began as a snapshot."""

    opened: Opened
    bitwise: bool  # whether outputs will be bitwise what the exporting server would have given


@dataclass(frozen=True, slots=True)
class Begun:
    """A rollout has begun."""

    seq: int  # number of the first step of its prompt, or of its first draw


Value = (
    list[Opened | StepStreamError] | SessionInfo | Page | list[TenantUse] | Forked | Imported | Begun | Snapshot | InferenceTotals
    | StepStreamError | int | None
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one command that carried a `request`."""

    request: int
    value: Value


@dataclass(slots=True)  # not frozen: every turn makes one, and freezing would take a microsecond of it
class Answers:
    """Answered rows, grouped by stream: equal streams are adjacent. Within a session, in input order."""

    streams: Ints
    handles: Ints
    first_seqs: Ints
    lengths: Ints
    kept: Ints  # how many of each row's last steps have outputs here
    outputs: tuple[Tensor, ...]  # one per declared output: [sum(kept), *shape]


@dataclass(frozen=True, slots=True)
class RowErrors:
    """Refused or failed rows as columns, in input order per session. They follow the same turn's Answers."""

    streams: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    first_seqs: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    expected_seqs: list[int] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rolled:
    """Draws of rollouts, of each in order."""

    pieces: NDArray[Any]  # [n] of PIECE
    values: Tensor  # what was drawn, or quantiles of it over paths, flat: [sum of sizes], of the input's dtype
    outputs: tuple[Tensor, ...]  # one per declared output: [sum of kept, *shape]


@dataclass(frozen=True, slots=True)
class Detached:
    """Handles that no longer stand for a session, as columns."""

    streams: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)
    errors: list[StepStreamError | None] = field(default_factory=list)  # where sessions could not be closed as asked


@dataclass(frozen=True, slots=True)
class Durables:
    """Steps of durable sessions that are in the store, as columns: of streams that hold sessions, and of one-shot callers that
    are answered with the same delivery."""

    streams: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # steps below it are in the store
    epochs: list[int] = field(default_factory=list)


@dataclass(slots=True)  # not frozen, as Answers are not
class Delivery:
    """All that one turn has for one front door, which is at least that an envelope was heard. To be passed on in this order."""

    replies: list[Reply]
    answers: Answers | None
    errors: RowErrors
    detached: Detached
    heard: int = 0  # envelopes of this door that the engine has taken in, ever
    rolled: Rolled | None = None
    durables: Durables | None = None  # to be passed on behind the replies, before all that follows them


class Sink(Protocol):
    """A front door's ear. Called by whoever turns the engine; must not block, raise, or keep the engine waiting."""

    def deliver(self, delivery: Delivery) -> None:
        """At most once per turn."""

    def fail(self, error: StepStreamError) -> None:
        """The engine has crashed; nothing will be delivered any more. Called once."""


class Door(Protocol):
    """A front door's mouth: what `Engine.connect(sink)` returns. Safe to call from any thread."""

    def submit(self, *commands: Command) -> None:
        """Queues an envelope of commands. Never waits. Raises ServerFault(ENGINE_FAILED) once the engine has stopped."""


Envelope = tuple[int, Sequence[Command]]  # the number of a door, and what it said at once


class Inbox(Protocol):
    """All that front doors have said and their engine has not heard: a queue of envelopes, each with the number of its door."""

    def put(self, item: Envelope | None) -> None:
        """Adds an envelope; None only wakes who waits. From any thread."""

    def get(self, *, timeout: float) -> Envelope | None:
        """The next one, waited for no longer than so many seconds. Raises queue.Empty."""

    def get_nowait(self) -> Envelope | None:
        """Takes the next one without waiting. Raises queue.Empty."""

    def qsize(self) -> int:
        """How many there are, nearly."""
