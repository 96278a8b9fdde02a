"""The session table: one row of columns per session, found by id, ended by time.

Columns are numpy arrays indexed by session number, because a turn touches a thousand sessions at once; an idle session costs
its row, its id and its secret, never a thread or a timer. A session number is used again only with a higher generation.
"""

from __future__ import annotations

import secrets as tokens
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import NO_STREAM, Ending, Ints, Keep
from stepstream_server.errors import CallerError, Reason

ID_LENGTH = 128  # characters; room for two UUIDs and a prefix
_ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")
_LOOK_SECONDS = 0.1  # between two looks for expired sessions: nobody's time-to-live is that exact
_TOKEN_BYTES = 16  # of made ids and of secrets: 128 bits cannot be guessed
NEVER = np.iinfo(np.int64).max  # a step number that no session reaches

REASON_OF_ENDING = {
    Ending.CLOSED: Reason.SESSION_CLOSED,
    Ending.EXPIRED: Reason.SESSION_EXPIRED,
    Ending.EVICTED: Reason.SESSION_EVICTED,
    Ending.MOVED: Reason.SESSION_MOVED,
}
HOW_ENDED = {
    Ending.CLOSED: "was closed",
    Ending.EXPIRED: "has expired",
    Ending.EVICTED: "was evicted",
    Ending.MOVED: "has moved",
}


class Status:
    """A session's life: FREE -> OPEN -> QUARANTINED -> RESETTING -> OPEN, or OPEN -> ROLLING -> OPEN; closing leads to FREE from
    anywhere."""

    FREE: Final = 0
    OPEN: Final = 1
    QUARANTINED: Final = 2  # its last launch would have made it non-finite: only reset and close are accepted
    RESETTING: Final = 3  # quarantined, and a reset is pending: what comes behind it is admitted
    ROLLING: Final = 4  # a rollout that commits is under way: no steps are admitted


class Hot:
    """Columns of `SessionTable.hot`. The first four are those of a block's row: equal ones mean that the row's stream still holds
    the session under that handle, and that the row is what the session expects next, to be kept whole."""

    STREAM: Final = 0
    GENERATION: Final = 1
    ADMITTED: Final = 2  # in a row: its first step
    TAG: Final = 3  # uint32, and beside it Keep.ALL, always
    NEXT_SEQ: Final = 4
    ACKED: Final = 5
    RELEASED: Final = 6
    KEPT: Final = 7
    SLOT: Final = 8
    COLUMNS: Final = 9


class Last(NamedTuple):
    """The row with which a session ends: its steps, and what was kept of them."""

    begin: int  # steps [begin, end)
    end: int
    keep: Keep
    cached: bool  # whether its answers were kept for a repeat


class SessionTable:
    """Sessions of one model. Numbers only; states live in the backend, answers in the cache."""

    def __init__(self, capacity: int, tombstone_seconds: float) -> None:
        self.capacity = capacity
        # What nearly every step looks at lies side by side, so that it is read and written at once (`express`): int64[.., HOT].
        self.hot = np.zeros((capacity, Hot.COLUMNS), np.int64)
        self.stream = self.hot[:, Hot.STREAM]  # attached stream, or NO_STREAM
        self.generation = self.hot[:, Hot.GENERATION]
        self.admitted = self.hot[:, Hot.ADMITTED]  # the admission point: next_seq + pending
        self.tag, keeps = self.hot[:, Hot.TAG : Hot.TAG + 1].view(np.uint32).T  # that stream's handle
        self.next_seq = self.hot[:, Hot.NEXT_SEQ]  # steps and resets applied
        self.acked = self.hot[:, Hot.ACKED]  # answers below have been acknowledged
        self.released = self.hot[:, Hot.RELEASED]  # answers below are gone; less than acked while a repeat waits for one
        self.kept = self.hot[:, Hot.KEPT]  # admitted steps from acked on whose outputs are (to be) kept
        self.slot = self.hot[:, Hot.SLOT]
        self.stream[:] = NO_STREAM
        keeps[:] = Keep.ALL
        self.status = np.zeros(capacity, np.uint8)
        self.repeats = np.zeros(capacity, np.int32)  # rows in the backlog that ask for kept answers
        self.stop_at = np.full(capacity, NEVER)  # number before which steps stop, because a copy is to be taken there
        self.served = np.zeros(capacity, np.int64)  # turn of the last launch of several steps that it took part in
        self.opened_at = np.zeros(capacity)  # monotonic seconds
        self.used_at = np.zeros(capacity)  # monotonic seconds of the last step
        self.idle_ttl = np.zeros(capacity)  # seconds
        self.dies_at = np.zeros(capacity)  # monotonic seconds; inf: no maximal lifetime
        self._ids: list[str] = [""] * capacity
        self._secrets = np.zeros((capacity, _TOKEN_BYTES), np.uint8)
        self._by_id: dict[str, int] = {}
        self._free: list[int] = []
        self._high = 0  # session numbers from here on have never been used
        self._position = np.zeros(capacity, np.int32)  # scratch for `firsts`
        self.replaced: set[int] = set()  # sessions whose ids others have: they end when nothing of them is pending
        self.over: dict[int, Last] = {}  # sessions whose end was answered in this turn: they end with it
        self.draining = False  # whether nothing new is taken, because the server is about to stop
        self.next_deadline = float("inf")  # monotonic seconds before which no session ends by itself
        self._tombstones: OrderedDict[str, tuple[float, Ending]] = OrderedDict()  # id -> (forgotten at, ending)
        self._tombstone_seconds = tombstone_seconds

    def __len__(self) -> int:
        return self._high - len(self._free)

    def __repr__(self) -> str:
        return f"<SessionTable {len(self)}/{self.capacity} sessions | {len(self._tombstones)} tombstones>"

    def check_id(self, session_id: str) -> None:
        """Raises CallerError if the id is malformed."""
        if not 0 < len(session_id) <= ID_LENGTH or not _ID_CHARACTERS.issuperset(session_id):
            raise CallerError(
                Reason.INVALID_ARGUMENT,
                f"id: expected 1 to {ID_LENGTH} characters of A-Z a-z 0-9 . _ : -, got {session_id[:ID_LENGTH]!r}",
                field="id",
            )

    def open(self, ids: Sequence[str], slots: Ints, now: float, idle_ttl: float, lifetime: float) -> Ints:
        """Adds sessions whose ids have been checked (empty: one is made) and returns their numbers: [n]."""
        count = len(ids)
        sessions = self._numbers(count)
        secrets = np.frombuffer(tokens.token_bytes(count * _TOKEN_BYTES), np.uint8).reshape(count, _TOKEN_BYTES)
        made = tokens.token_bytes(count * _TOKEN_BYTES).hex()
        for index, session in enumerate(sessions.tolist()):
            session_id = ids[index] or made[2 * _TOKEN_BYTES * index : 2 * _TOKEN_BYTES * (index + 1)]
            self._ids[session] = session_id
            self._by_id[session_id] = session
            self._tombstones.pop(session_id, None)
        self._secrets[sessions] = secrets
        self.status[sessions] = Status.OPEN
        self.slot[sessions] = slots
        for counter in (self.next_seq, self.admitted, self.acked, self.released, self.kept, self.served):
            counter[sessions] = 0
        self.stop_at[sessions] = NEVER
        self.stream[sessions] = NO_STREAM
        self.opened_at[sessions] = self.used_at[sessions] = now
        self.idle_ttl[sessions] = idle_ttl
        self.dies_at[sessions] = now + lifetime
        self.next_deadline = min(self.next_deadline, now + idle_ttl, now + lifetime)
        return sessions

    def begin_at(self, sessions: Ints, next_seq: int, acked: int, kept: int) -> None:
        """Sessions just opened that go on where another one stood."""
        self.next_seq[sessions] = self.admitted[sessions] = next_seq
        self.acked[sessions] = self.released[sessions] = acked
        self.kept[sessions] = kept

    def end(self, sessions: Ints, ending: Ending, now: float) -> None:
        """Removes sessions and remembers why, but for those whose ids others have."""
        for session in sessions.tolist():
            session_id = self._ids[session]
            if session in self.replaced:
                self.replaced.remove(session)
            else:
                del self._by_id[session_id]
                self._tombstones[session_id] = (now + self._tombstone_seconds, ending)
            self.over.pop(session, None)
            self._ids[session] = ""
            self._free.append(session)
        self._secrets[sessions] = 0
        self.status[sessions] = Status.FREE
        self.stream[sessions] = NO_STREAM
        self.generation[sessions] += 1
        self._forget(now)

    def give_up_id(self, session: int) -> None:
        """The session can no longer be found, so that another one can be opened under its id."""
        del self._by_id[self._ids[session]]
        self.replaced.add(session)

    def find(self, session_id: str) -> int:
        """Number of an open session. Raises CallerError: not found, closed, expired, evicted or moved."""
        session = self._by_id.get(session_id)
        if session is not None:
            return session
        ending = self.ending(session_id)
        if ending is None:
            raise CallerError(Reason.SESSION_NOT_FOUND, f"there is no session {session_id!r}", field="id")
        raise CallerError(REASON_OF_ENDING[ending], f"session {session_id!r} {HOW_ENDED[ending]}", field="id")

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._by_id

    def numbers(self, session_ids: Sequence[str]) -> Ints:
        """Number of each open session; -1 where there is none: [n]."""
        return np.array([self._by_id.get(session_id, -1) for session_id in session_ids], np.int64)

    def ending(self, session_id: str) -> Ending | None:
        """Why a session ended, while that is remembered."""
        tombstone = self._tombstones.get(session_id)
        return tombstone[1] if tombstone else None

    def id(self, session: int) -> str:
        return self._ids[session]

    def secrets(self, sessions: Ints) -> list[bytes]:
        """What proves the ownership of each."""
        data = self._secrets[sessions].tobytes()
        return [data[start : start + _TOKEN_BYTES] for start in range(0, len(data), _TOKEN_BYTES)]

    def own(self, session_id: str, secret: bytes) -> int:
        """Number of an open session, for whoever has its secret. Raises CallerError."""
        session = self.find(session_id)
        if not tokens.compare_digest(self._secrets[session].tobytes(), secret):
            raise CallerError(Reason.SECRET_MISMATCH, f"secret: not that of session {session_id!r}", field="secret")
        return session

    def claim(self, session_id: str, secret: bytes) -> int:
        """The same for a momentary caller, who needs no secret while no stream holds the session."""
        if secret:
            return self.own(session_id, secret)
        session = self.find(session_id)
        if self.stream[session] != NO_STREAM:
            message = f"session {session_id!r} is attached to a stream; its secret is needed"
            raise CallerError(Reason.SESSION_IN_USE, message, field="secret")
        return session

    def quarantined(self, sessions: Ints) -> NDArray[np.bool_]:
        """Which sessions must be reset, or are about to be: [n]."""
        status = self.status[sessions]
        quarantined: NDArray[np.bool_] = (status == Status.QUARANTINED) | (status == Status.RESETTING)
        return quarantined

    def alive(self, session: int, generation: int) -> bool:
        """Whether the session of that generation is open."""
        return bool(self.generation[session] == generation and self.status[session] != Status.FREE)

    def page(self, start: int, most: int) -> tuple[Ints, int | None]:
        """Sessions that can be found, from number `start` on, and where the next page starts; None if these are the last."""
        found = start + np.flatnonzero(self.status[start : self._high] != Status.FREE)
        if self.replaced:
            found = found[~np.isin(found, list(self.replaced))]
        return found[:most], int(found[most]) if len(found) > most else None

    def firsts(self, sessions: Ints) -> NDArray[np.bool_]:
        """Which entries are the first of their session: [n]. All of them are where no session occurs twice."""
        if len(sessions) == 1:
            return np.ones(1, np.bool_)
        positions = np.arange(len(sessions), dtype=np.int32)
        self._position[sessions[::-1]] = positions[::-1]  # of equal sessions the last assignment, the first entry, stands
        first: NDArray[np.bool_] = self._position[sessions] == positions
        return first

    def attached_to(self, stream: int) -> Ints:
        """Sessions that a stream holds."""
        return np.flatnonzero(self.stream[: self._high] == stream)

    def current(self, sessions: Ints, generations: Ints, streams: int | Ints, tags: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Which of the sessions still exist in that generation and are attached to that stream under that handle: [n]."""
        current: NDArray[np.bool_] = (
            (self.generation[sessions] == generations) & (self.stream[sessions] == streams) & (self.tag[sessions] == tags)
        )
        return current

    def expired(self, now: float, most: int) -> Ints:
        """At most so many sessions whose time is over. A session with steps pending is not idle, nor is one with a rollout.

        All sessions are looked at, and not before the earliest deadline that the last look found: using a session only moves
        its deadline back. At 100,000 sessions a look takes 0.5 ms; a heap took 130 bytes per session and 1 us per opening.
        """
        self._forget(now)
        if now < self.next_deadline:
            return np.zeros(0, np.int64)
        used = slice(self._high)
        idle = (self.admitted[used] == self.next_seq[used]) & (self.status[used] != Status.ROLLING)
        idle_since = np.where(idle, self.used_at[used], now)
        deadlines = np.minimum(idle_since + self.idle_ttl[used], self.dies_at[used])
        deadlines[self.status[used] == Status.FREE] = np.inf
        over = np.flatnonzero(deadlines <= now)
        deadlines[over[:most]] = np.inf
        earliest = float(deadlines.min(initial=np.inf))
        self.next_deadline = now if earliest <= now else max(earliest, now + _LOOK_SECONDS)
        return over[:most]

    def _numbers(self, count: int) -> Ints:
        """Numbers for new sessions, released ones before fresh ones."""
        used = min(count, len(self._free))
        fresh = range(self._high, self._high + count - used)
        numbers = [*self._free[len(self._free) - used :][::-1], *fresh]
        del self._free[len(self._free) - used :]
        self._high += len(fresh)
        return np.array(numbers, np.int64)

    def _forget(self, now: float) -> None:
        """Drops tombstones that are old, or older than the newest `capacity` of them."""
        while self._tombstones:
            session_id, (forgotten_at, _) = next(iter(self._tombstones.items()))
            if forgotten_at > now and len(self._tombstones) <= self.capacity:
                return
            del self._tombstones[session_id]
