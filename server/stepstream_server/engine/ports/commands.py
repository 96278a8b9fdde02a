"""The engine port, inwards: what front doors tell the engine.

A front door says what it has gathered as an envelope, some commands at once, and hears how many of them the engine has taken
in. `stream` is the door's own number for a stream, >= 0, never used twice by a door. `request` is its own number for a question;
the Reply repeats it. An `id` is a key (`tenancy`): a tenant's, and in it what callers know. `sessions` and `generations` are what
the Reply to Open or Attach named, `handles` the handles they were given; the door keeps them per handle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports.basics import Commit, Ints, Tensor
from stepstream_server.engine.ports.store import Outcome
from stepstream_server.errors import Reason
from stepstream_server.snapshots import Snapshot


@dataclass(frozen=True, slots=True)
class Open:
    """Opens `len(ids)` sessions; an empty id asks for one made by the engine. A stream holds them at once, under `handles`.

    A repeat of the same `request_id` finds the sessions that it has opened before, and takes them over for the stream.
    Reply: `list[Opened | StepStreamError]`, in order.
    """

    stream: int
    request: int
    ids: Sequence[str]
    handles: NDArray[np.uint32] | None = None  # handles; None without a stream
    idle_ttl: float | None = None  # seconds; None: the engine's setting, which is also the maximum
    request_id: str = ""  # empty: a repeat opens more
    client: str = ""  # whose stream it is, if its client numbers its streams: of those the newest alone gets sessions
    number: int = 0  # of the stream among its client's
    durable: bool = False  # whether they are to be in the store before the reply; settings may have it so in any case


@dataclass(frozen=True, slots=True)
class Attach:
    """Attaches sessions to the stream, taking over from whichever holds them. Kept answers from `acked` on are sent again.

    Reply: `list[Opened | StepStreamError]`, in order, delivered before those answers.
    """

    stream: int
    request: int
    handles: NDArray[np.uint32]
    ids: Sequence[str]
    secrets: Sequence[bytes]
    acked: Ints
    client: str = ""  # as of Open
    number: int = 0
    replay_from: Ints | None = None  # number from which on the client still has the inputs of all applied; NO_SEQ: has none


@dataclass(frozen=True, slots=True)
class Block:
    """Inputs of n rows, of any streams. Outcomes arrive as Answers and RowErrors of later turns, in input order per session.

    The rows of one stream come from one message of its: a session may have one row in a block.
    """

    rows: NDArray[Any]  # [n] of ROW
    inputs: tuple[Tensor, ...]  # one per declared input: [sum of lengths, *shape]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Rows that the door found unfit to be a Block or a Reset: their refusal takes its place among their sessions' outcomes."""

    stream: int
    sessions: Ints
    generations: Ints
    handles: NDArray[np.uint32]
    first_seqs: Ints
    lengths: Ints  # each >= 1
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Cumulative: answers below each count are not needed again."""

    stream: int
    sessions: Ints
    generations: Ints
    handles: NDArray[np.uint32]
    counts: Ints


@dataclass(frozen=True, slots=True)
class Reset:
    """Zeroes sessions' states, ordered with blocks; each takes one number and is answered by a row of length 1 that keeps 0."""

    stream: int
    sessions: Ints
    generations: Ints
    handles: NDArray[np.uint32]
    seqs: Ints
    arrival: float


@dataclass(frozen=True, slots=True)
class Detach:
    """Lets sessions go; queued steps are dropped. Confirmed by Detached (REQUESTED, or CLOSED with `close`)."""

    stream: int
    sessions: Ints
    generations: Ints
    handles: NDArray[np.uint32]
    close: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One-shot steps (or chunks) of sessions addressed by id; never takes over. Rows of one session are taken in their order.

    A row's stream is its caller's number, its handle the caller's own: its outcome comes under both. What is
    wrong with one row harms no other.
    A row that starts is step 0 of a new session, which is opened in place of one that is open under that id, unless a stream
    holds that one: it gives up its id at once, and ends (REPLACED) when what is pending of it has had its outcome. No secret is
    asked for that. A row that ends closes its session with the turn in which its last step was answered; if it fails or is
    refused, nothing is ended. If it was numbered, just the same row is answered again for a while.
    """

    rows: NDArray[Any]  # [n] of ROW without sessions; where `first` is NO_SEQ `unkept`, since nobody can repeat it
    ids: Sequence[str]  # [n]
    secrets: Sequence[bytes]  # [n], empty ones where none is known; or none at all
    starts: NDArray[np.bool_]  # [n]: opens the session first
    inputs: tuple[Tensor, ...]  # one per declared input: [sum of lengths, *shape]


@dataclass(frozen=True, slots=True)
class CallersLeft:
    """Nobody listens under these numbers of callers any more: their queued steps are dropped."""

    streams: Sequence[int]


@dataclass(frozen=True, slots=True)
class Get:
    """Reply: `SessionInfo | StepStreamError`."""

    request: int
    id: str


@dataclass(frozen=True, slots=True)
class Statistics:
    """Reply: `InferenceTotals`."""

    request: int


@dataclass(frozen=True, slots=True)
class Close:
    """Reply: `int` (next_seq; 0 if it was closed already) `| StepStreamError`."""

    request: int
    id: str
    secret: bytes
    by_admin: bool = False  # whether no secret is needed though a stream holds the session


@dataclass(frozen=True, slots=True)
class List:
    """Open sessions of a tenant: those in memory in the order of their opening, then those that are only in the store, by key.
    Reply: `Page`."""

    request: int
    start: int | str  # 0, or a former page's `next`: a place among those in memory, or a key behind which it goes on in the store
    most: int
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class LimitTenants:
    """How much tenants may have, of those that have a limit; of all others it is no longer limited. What there is goes on."""

    sessions: Mapping[str, int]  # open at once, by tenant
    rollouts: Mapping[str, int]  # under way at once, by tenant


@dataclass(frozen=True, slots=True)
class CountTenants:
    """Reply: `list[TenantUse]`, of the tenants that have something."""

    request: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Opens sessions that begin where another stands after `at_seq` steps, which are waited for if they are pending.

    Reply: `Forked | StepStreamError`.
    """

    request: int
    id: str
    secret: bytes
    at_seq: int  # or NO_SEQ: behind what is pending now, as far as that is applied
    ids: Sequence[str]  # of the forks; an empty one asks for one made by the engine
    request_id: str = ""
    needs_secret: bool = False  # whether the secret must be right though no stream holds the session


@dataclass(frozen=True, slots=True)
class Export:
    """Reads a session out after `at_seq` steps, as Fork does, and ends it here if `close`.

    Reply: `Snapshot | StepStreamError`.
    """

    request: int
    id: str
    secret: bytes
    at_seq: int  # or NO_SEQ
    close: bool
    most_bytes: int  # of state and answers; a session that needs more is refused and goes on
    request_id: str = ""
    needs_secret: bool = False  # whether the secret must be right though no stream holds the session


@dataclass(frozen=True, slots=True)
class Import:
    """Opens a session from a snapshot, whose fingerprint must be the model's. Reply: `Imported | StepStreamError`."""

    request: int
    snapshot: Snapshot  # its digest tells a repeat of the `request_id` from another request
    id: str  # empty: the snapshot's
    request_id: str = ""
    durable: bool = False  # as of Open


@dataclass(frozen=True, slots=True)
class Generate:
    """A rollout: a session stepped on its own outputs. A one-shot caller's: `stream` is its number, and it has but this one.

    It begins where its session stands after the steps that are pending now. Reply: `Begun | StepStreamError`, when it begins;
    what it draws follows in `Rolled`, and if it fails, in RowErrors under handle 0. While it commits, its session takes no steps;
    once a stream opens or attaches that session, it ends (SESSION_IN_USE). It also ends if its caller takes nothing for too long.
    """

    stream: int
    request: int
    id: str  # empty: it begins at the initial state
    secret: bytes
    at_seq: int  # where the caller expects it to begin, or NO_SEQ; acknowledges everything below if it commits
    commit: Commit
    prompt: tuple[Tensor, ...]  # fed first: one per declared input, [steps, *shape]; empty: nothing is
    max_steps: int  # draws; >= 1
    arrival: float  # monotonic seconds
    temperature: float = 0.0  # 0: greedy
    top_k: int = 0  # 0: no limit
    top_p: float = 0.0  # 0: no limit
    seed: int = 0  # uint64
    stop: tuple[tuple[int, ...], ...] = ()  # sequences of tokens, none empty
    paths: int = 1  # more than one: quantiles over them are told, and nothing is committed
    levels: tuple[float, ...] = ()  # of the quantiles
    outputs: bool = False  # whether outputs are told
    client: str = ""  # `tenant/name` of whoever asks: who it shares room and time with

    @property
    def prompt_steps(self) -> int:
        return len(self.prompt[0]) if self.prompt else 0


@dataclass(frozen=True, slots=True)
class Took:
    """Draws of a rollout that its caller has been handed since it last said so, which it does as soon as they are TAKEN_AT_ONCE:
    it is not rolled out far ahead of its reader."""

    stream: int
    draws: int


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
    until_let_go: bool = False  # the reply waits also until no stream of any front door holds sessions


@dataclass(frozen=True, slots=True)
class Flush:
    """Writes all that is not in the store yet. Reply: None, once everything is."""

    request: int


@dataclass(frozen=True, slots=True)
class StoreDone:
    """From the store, under door STORE_DOOR: what became of tasks."""

    outcomes: Sequence[Outcome]


Copying = Fork | Export | Generate
Command = (
    Open | Attach | Block | Refuse | Acknowledge | Reset | Detach | Call | CallersLeft | Get | List | Statistics | Close | Copying
    | Import | Took | StreamEnded | DoorLost | Drain | LimitTenants | CountTenants | Flush | StoreDone
)  # fmt: skip
