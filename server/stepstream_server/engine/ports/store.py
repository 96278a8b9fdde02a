"""The store port: what an engine asks of the store that keeps its durable sessions, and what it is told.

The engine never waits: it submits tasks, and their outcomes come through its inbox as `StoreDone`, in a later turn. Tasks of one
engine are carried out in their order. Each is answered once, by an outcome that repeats its number. Keys are as of `tenancy`; the
model and its version are the store's to know. Times are unix seconds, since they outlive processes and machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports.basics import Ending, Tensor
from stepstream_server.errors import StepStreamError
from stepstream_server.snapshots import Snapshot

# The numbers of a session in the store.
HEAD = np.dtype(
    [
        ("next_seq", np.int64),
        ("acked", np.int64),
        ("epoch", np.int64),  # how often the session has been restored
        ("rolled_from", np.int64),  # the last numbers without a gap that rollouts took, [from, up to)
        ("rolled_to", np.int64),
        ("idle_ttl", np.float64),  # seconds
        ("opened_at", np.float64),  # unix seconds
        ("used_at", np.float64),  # unix seconds of the last step
        ("quarantined", np.bool_),
    ]
)


@dataclass(frozen=True, slots=True)
class Group:
    """Durable sessions of one model as they stand, as columns: [n] each. Copies: nobody changes them any more."""

    keys: Sequence[str]
    heads: NDArray[Any]  # [n] of HEAD
    secrets: NDArray[np.uint8]  # [n, 32]: SHA-256 of each secret
    states: dict[str, Tensor]  # by name: [n, *shape]
    held: NDArray[np.bool_]  # [sum of next_seq - acked]: which unacknowledged steps keep their outputs
    outputs: tuple[Tensor, ...]  # one per declared output: [sum of held, *shape]
    drawn: dict[int, Tensor]  # by place in `keys`: the last draws of a rollout, which end at next_seq: [draws, *shape]

    @property
    def bytes(self) -> int:
        """Size of the tensors."""
        return sum(each.nbytes for each in (*self.states.values(), self.held, *self.outputs, *self.drawn.values()))


@dataclass(frozen=True, slots=True)
class Record:
    """A session as it was read from the store."""

    key: str
    snapshot: Snapshot
    secret: bytes  # SHA-256 of it: 32 bytes
    head: Any  # of HEAD
    drawn: Tensor | None  # as in Group


@dataclass(frozen=True, slots=True)
class Request:
    """A request that opens sessions, for a repeat of it to find them."""

    id: str  # a key
    what: bytes  # a digest of what it asks for
    until: float  # unix seconds: for how long it is remembered


# Tasks -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Find:
    """Reads sessions. Outcome: Found."""

    number: int
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class Create:
    """Adds sessions that are not there, all or none, and the request that opens them, in one write. Outcome: Created."""

    number: int
    group: Group
    request: Request | None


@dataclass(frozen=True, slots=True)
class Write:
    """Writes sessions in place of what was written of them before. Outcome: Written."""

    number: int
    group: Group


@dataclass(frozen=True, slots=True)
class End:
    """Removes sessions, whether they are there or not, and remembers why. Outcome: Ended."""

    number: int
    keys: Sequence[str]
    ending: Ending
    until: float  # unix seconds: for how long the reason is remembered


@dataclass(frozen=True, slots=True)
class FindOverdue:
    """Looks for sessions that have been idle for longer than they may. Outcome: Overdue."""

    number: int
    now: float  # unix seconds
    most: int


@dataclass(frozen=True, slots=True)
class Browse:
    """Reads the numbers of a tenant's sessions, in the order of their keys. Outcome: Browsed."""

    number: int
    tenant: str
    after: str  # the last key of the page before; empty: from the first on
    most: int


Task = Find | Create | Write | End | FindOverdue | Browse


# Outcomes --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """Everything under each key: a session, how it ended, why it cannot be read, or None."""

    number: int
    sessions: Sequence[Record | Ending | StepStreamError | None]


@dataclass(frozen=True, slots=True)
class Created:
    """The fate of a Create: sessions were added, or why none was."""

    number: int
    taken: Sequence[str] = ()  # keys under which there are sessions already
    # What a request of this id has made before: its digest, until when it is remembered, and the sessions under its keys now,
    # as in Found. None: there was none.
    before: tuple[bytes, float, Sequence[tuple[str, Record | Ending | StepStreamError | None]]] | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """All of a group is in the store."""

    number: int
    bytes: int
    seconds: float  # that it took, from the task's turn to the end of the write


@dataclass(frozen=True, slots=True)
class Ended:
    """All are gone, and will not come back."""

    number: int


@dataclass(frozen=True, slots=True)
class Overdue:
    """Keys of sessions that are overdue, `most` at most."""

    number: int
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class Browsed:
    """A page of sessions."""

    number: int
    keys: Sequence[str]
    heads: NDArray[Any]  # [n] of HEAD


@dataclass(frozen=True, slots=True)
class NotDone:
    """The store could not carry the task out, or does not know whether it has; it may try again. Nothing half done is left."""

    number: int
    error: StepStreamError  # STORE_UNAVAILABLE


Outcome = Found | Created | Written | Ended | Overdue | Browsed | NotDone


class Store(Protocol):
    """A store's counter for one model, as its engine sees it."""

    def submit(self, task: Task) -> None:
        """Queues a task. Never waits, never raises."""
