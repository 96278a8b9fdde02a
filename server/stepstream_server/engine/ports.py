"""The engine's two seams, as Protocols and the records that cross them. numpy arrays and plain values only.

The engine port: front doors `submit` commands, which never waits, and get one `deliver` call per turn. Neither side holds an
object per step, so both can live in one process or in two.
The backend port: what computes a batch, in two calls, so that a host can prepare the next one while a device computes.
The observer port: what one turn did, for metrics.

Every column of a record is a numpy array with one entry per row; `n` is the number of rows.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stepstream_server.errors import Reason, StepStreamError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Tensor = NDArray[Any]  # float32 or int64, C order

NO_SEQ = -1  # a momentary call that takes the next free number
NO_STREAM = -1  # a command that belongs to no stream


class Keep(enum.IntEnum):
    """Which steps of a row come back with outputs and are kept for a repeat (`Outputs` of the contract)."""

    ALL = 1
    LAST = 2
    NONE = 3


class Ending(enum.IntEnum):
    """Why a handle no longer stands for a session (`DetachReason` of the contract, same numbers)."""

    REQUESTED = 1
    TAKEN = 2
    CLOSED = 3
    EXPIRED = 4
    EVICTED = 5
    MOVED = 6


# ---------------------------------------------------------------------------------------------------------------------
# Commands: front door to engine. `stream` is the door's own number for a stream, >= 0, never used twice by a door.
# `request` is the door's own number for a question; the Reply repeats it.
# `sessions` and `generations` are what the Reply to Open or Attach named; the door keeps them per handle.
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Opens `len(ids)` sessions; an empty id asks for one made by the engine. With a stream they are attached to it under `tags`.

    Reply: `list[Opened | StepStreamError]`, in order.
    """

    stream: int
    request: int
    ids: Sequence[str]
    tags: NDArray[np.uint32] | None = None  # handles; None without a stream
    idle_ttl: float | None = None  # seconds; None: the engine's setting, which is also the maximum


@dataclass(frozen=True, slots=True)
class Attach:
    """Attaches sessions to the stream, taking over from whichever holds them. Kept answers from `acked` on are sent again.

    Reply: `list[Opened | StepStreamError]`, in order, delivered before those answers.
    """

    stream: int
    request: int
    tags: NDArray[np.uint32]
    ids: Sequence[str]
    secrets: Sequence[bytes]
    acked: Ints


@dataclass(frozen=True, slots=True)
class Block:
    """Inputs of n rows. Outcomes arrive as Answers and RowErrors of later turns, in input order per session."""

    stream: int
    sessions: Ints
    generations: Ints
    tags: NDArray[np.uint32]
    first_seqs: Ints
    lengths: Ints  # each >= 1
    inputs: tuple[Tensor, ...]  # one per declared input: [sum(lengths), *shape]
    keep: Keep
    arrival: float  # monotonic seconds, when the message was read
    deadline: float = float("inf")  # monotonic seconds; not begun by then: dropped
    acked: Ints | None = None  # acknowledged before the rows are admitted


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Cumulative: answers below each count are not needed again."""

    stream: int
    sessions: Ints
    generations: Ints
    tags: NDArray[np.uint32]
    counts: Ints


@dataclass(frozen=True, slots=True)
class Reset:
    """Zeroes sessions' states, ordered with blocks; each takes one number and is answered by a row of length 1 that keeps 0."""

    stream: int
    sessions: Ints
    generations: Ints
    tags: NDArray[np.uint32]
    seqs: Ints
    arrival: float


@dataclass(frozen=True, slots=True)
class Detach:
    """Lets sessions go; queued steps are dropped. Confirmed by Detached (REQUESTED, or CLOSED with `close`)."""

    stream: int
    sessions: Ints
    generations: Ints
    tags: NDArray[np.uint32]
    close: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A momentary step (or chunk) of one session, addressed by id; never takes over.

    `stream` is a number used for this call alone: its outcome comes as Answers and RowErrors of that stream, with tag 0.
    """

    stream: int
    id: str
    secret: bytes
    seq: int  # or NO_SEQ
    length: int
    inputs: tuple[Tensor, ...]  # [length, *shape]
    keep: Keep
    arrival: float
    deadline: float = float("inf")


@dataclass(frozen=True, slots=True)
class Get:
    """Reply: `SessionInfo | StepStreamError`."""

    request: int
    id: str


@dataclass(frozen=True, slots=True)
class Close:
    """Reply: `int` (next_seq; 0 if it was closed already) `| StepStreamError`."""

    request: int
    id: str
    secret: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The stream is gone: its sessions are detached, its queued steps dropped, nothing more is delivered for it."""

    stream: int


@dataclass(frozen=True, slots=True)
class DoorLost:
    """The front door is gone (a worker died): the same for each of its streams."""


@dataclass(frozen=True, slots=True)
class Drain:
    """From now on sessions are neither opened nor attached; admitted steps go on. Reply: None, once nothing is pending."""

    request: int


Command = Open | Attach | Block | Acknowledge | Reset | Detach | Call | Get | Close | StreamEnded | DoorLost | Drain


# ---------------------------------------------------------------------------------------------------------------------
# Results: engine to front door.
# ---------------------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What can be known about a session without touching it. Times in seconds."""

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


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one command that carried a `request`."""

    request: int
    value: list[Opened | StepStreamError] | SessionInfo | StepStreamError | int | None


@dataclass(frozen=True, slots=True)
class Answers:
    """Answered rows, grouped by stream: equal streams are adjacent. Within a session, in input order."""

    streams: Ints
    tags: NDArray[np.uint32]
    first_seqs: Ints
    lengths: Ints
    kept: Ints  # how many of each row's last steps have outputs here
    outputs: tuple[Tensor, ...]  # one per declared output: [sum(kept), *shape]


@dataclass(frozen=True, slots=True)
class RowErrors:
    """Refused or failed rows as columns, in input order per session. They follow the same turn's Answers."""

    streams: list[int] = field(default_factory=list)
    tags: list[int] = field(default_factory=list)
    first_seqs: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    expected_seqs: list[int] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Detached:
    """Handles that no longer stand for a session, as columns."""

    streams: list[int] = field(default_factory=list)
    tags: list[int] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Delivery:
    """All that one turn has for one front door. To be passed on in the order of the fields."""

    replies: list[Reply]
    answers: Answers | None
    errors: RowErrors
    detached: Detached


class Sink(Protocol):
    """A front door's ear. Called on the engine's thread; must not block, raise, or keep the engine waiting."""

    def deliver(self, delivery: Delivery) -> None:
        """At most once per turn."""

    def fail(self, error: StepStreamError) -> None:
        """The engine has crashed; nothing will be delivered any more. Called once."""


class Door(Protocol):
    """A front door's mouth: what `Engine.connect(sink)` returns. Safe to call from any thread."""

    def submit(self, command: Command) -> None:
        """Queues a command. Never waits. Raises ServerFault(ENGINE_FAILED) once the engine has stopped."""


# ---------------------------------------------------------------------------------------------------------------------
# The backend port.
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Computed:
    """What a launch gave. Sessions whose new state or outputs are not finite keep the state they had."""

    outputs: tuple[Tensor, ...]  # one per declared output: [batch, length, *shape]
    finite: NDArray[np.bool_] | None  # [batch]; None: all of them


class Backend(Protocol):
    """Owns a model's weights and the state pool; computes batches. Used by the engine's thread alone, after warm-up."""

    @property
    def slots(self) -> int:
        """Rows of the state pool."""

    @property
    def state_bytes(self) -> int:
        """Bytes of one slot."""

    @property
    def max_batch(self) -> int:
        """Rows that one launch may have."""

    def warm_up(self) -> None:
        """Runs every kind of batch once, on slots that no session has. Raises ServerFault if results are not as promised."""

    def allocate(self, count: int) -> Ints:
        """Takes `count` free slots, zeroed. Raises CallerError(SESSION_CAPACITY) if there are not as many; then takes none."""

    def release(self, slots: Ints) -> None:
        """Gives slots back."""

    def zero(self, slots: Ints) -> None:
        """Puts slots to the initial state."""

    def copy(self, sources: Ints, targets: Ints) -> None:
        """Copies states between allocated slots."""

    def read(self, slots: Ints) -> dict[str, Tensor]:
        """States by name: [len(slots), *shape], float32, copies."""

    def write(self, slots: Ints, states: dict[str, Tensor]) -> None:
        """The reverse of `read`."""

    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Any:
        """Begins `length` steps of distinct slots. inputs: one per declared input, [batch, length, *shape]. Returns a ticket.

        One length for the whole batch: rows of different lengths are never padded together. `function` is "step".
        """

    def collect(self, ticket: Any) -> Computed:
        """Waits for a launch. Its new states are in the pool afterwards."""


# ---------------------------------------------------------------------------------------------------------------------
# The observer port.
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Launch:
    """One launch, for metrics and for the scheduler's estimate of the next one."""

    batch: int  # rows
    length: int  # steps per row
    seconds: float  # from launch to collected


@dataclass(slots=True)
class TurnReport:
    """What one turn did. Columns have one entry per answered row; `steps` weighs them."""

    launches: list[Launch] = field(default_factory=list)
    steps: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    queue_seconds: Floats = field(default_factory=lambda: np.zeros(0))  # arrival to launch
    step_seconds: Floats = field(default_factory=lambda: np.zeros(0))  # arrival to hand-over
    duplicates: int = 0  # steps answered from the cache
    failures: dict[Reason, int] = field(default_factory=dict)  # steps refused or failed
    opened: int = 0
    closed: dict[Ending, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine at one moment. Readable from any thread."""

    sessions: int
    slots: int
    streams: int
    pending_steps: int
    state_bytes: int  # of open sessions
    turns: int
    steps: int  # applied since start


class Observer(Protocol):
    """Hears of each turn that did something, on the engine's thread."""

    def turn(self, report: TurnReport) -> None:
        """Must be quick: it is part of the turn."""
