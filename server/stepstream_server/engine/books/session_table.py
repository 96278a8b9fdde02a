"""The session table: one record per session, found by id, ended by time.

Records lie in one numpy array indexed by session number, because a turn touches a thousand sessions at once; an idle session
costs its record, its id and its secret, never a thread or a timer. A session number is used again only with a higher
generation.
"""

from __future__ import annotations

import hashlib
import secrets as tokens
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.books import ledger
from stepstream_server.engine.books.records import NEVER, NONE, SESSION
from stepstream_server.engine.books.remembered import Remembered
from stepstream_server.engine.books.status import Event, Status, move
from stepstream_server.engine.books.tenants import Tenants
from stepstream_server.engine.compiled import compiled
from stepstream_server.engine.ports import NO_STREAM, Ending, Floats, Ints, Keep
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.tenancy import names_one, plain, tenant_of

ID_LENGTH = 128  # characters; room for two UUIDs and a prefix
_ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")
_NOBODY = np.zeros(0, np.int64)
_LOOK_SECONDS = 0.1  # between two looks for expired sessions: nobody's time-to-live is that exact
_TOKEN_BYTES = 16  # of made ids and of secrets: 128 bits cannot be guessed
DIGEST_BYTES = 32  # of a secret: SHA-256

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


class Last(NamedTuple):
    """The row with which a session ends: its steps, and what was kept of them."""

    begin: int  # steps [begin, end)
    end: int
    keep: Keep
    cached: bool  # whether its answers were kept for a repeat


class SessionTable:
    """Sessions of one model. Numbers only; states live in the backend, answers in the cache.

    Columns are views of the records. The five counts and the status can be read here, and are written by `ledger` and `status`.
    """

    def __init__(self, capacity: int, tombstone_seconds: float) -> None:
        self.capacity = capacity
        self.sessions = np.zeros(capacity, SESSION)
        self.sessions["stream"] = NO_STREAM
        self.sessions["head"] = self.sessions["tail"] = NONE
        self.next_seq, self.admitted, self.acked, self.released, self.kept, self.status = (
            _read_only(self.sessions[name]) for name in ("next_seq", "admitted", "acked", "released", "kept", "status")
        )
        self.stream, self.handle = self.sessions["stream"], self.sessions["handle"]
        self.generation, self.slot = self.sessions["generation"], self.sessions["slot"]
        self.stop_at, self.used_at = self.sessions["stop_at"], self.sessions["used_at"]
        self.tenant = self.sessions["tenant"]
        self.durable, self.durable_seq = self.sessions["durable"], self.sessions["durable_seq"]
        self.epoch = np.zeros(capacity, np.int64)  # how often a durable session has been restored
        self.head, self.gone_back = self.sessions["head"], self.sessions["gone_back"]
        self.opened_at = np.zeros(capacity)  # monotonic seconds
        self.opened_unix = np.zeros(capacity)  # unix seconds, as the store has it of a durable session; nan: not yet
        self.idle_ttl = np.zeros(capacity)  # seconds
        self.dies_at = np.zeros(capacity)  # monotonic seconds; inf: no maximal lifetime
        self._ids: list[str] = [""] * capacity
        self.bitwise = np.ones(capacity, np.bool_)  # whether outputs are those of a session that was computed here from its start
        self._secrets = np.zeros((capacity, _TOKEN_BYTES), np.uint8)
        self._knows_secret = np.zeros(capacity, np.bool_)  # whether it is known; of a restored session only its digest is
        self.digests = np.zeros((capacity, DIGEST_BYTES), np.uint8)  # of the secrets
        self._by_id: dict[str, int] = {}
        self._free: list[int] = []
        self.tenants = Tenants()
        self._place = np.zeros(capacity, np.int64)  # among all sessions that the tenant has ever opened
        self._high = 0  # session numbers from here on have never been used
        self.replaced: set[int] = set()  # sessions whose ids others have: they end when nothing of them is pending
        self.over: dict[int, Last] = {}  # sessions whose end was answered in this turn: they end with it
        self.next_deadline = float("inf")  # monotonic seconds before which no session ends by itself
        self.barred: dict[str, StepStreamError] = {}  # ids under which nothing can be found or opened now, and why
        self._tombstones = Remembered[Ending](tombstone_seconds, capacity, lambda ending: 1)
        self._now = float("-inf")  # monotonic seconds, as this was last told
        self.tombstone_seconds = tombstone_seconds

    def __len__(self) -> int:
        return self._high - len(self._free)

    def __repr__(self) -> str:
        return f"<SessionTable {len(self)}/{self.capacity} sessions | {len(self._tombstones)} tombstones>"

    def check_id(self, key: str) -> None:
        """Raises CallerError if the id of a key is malformed."""
        if not is_id(key):
            session_id = plain(key)
            raise CallerError(
                Reason.INVALID_ARGUMENT,
                f"id: expected 1 to {ID_LENGTH} characters of A-Z a-z 0-9 . _ : -, got {session_id[:ID_LENGTH]!r}",
                field="id",
            )

    def open(self, ids: Sequence[str], slots: Ints, now: float, idle_ttl: float | Floats, lifetime: float | Floats) -> Ints:
        """Adds sessions whose ids have been checked (where a key has none, it is made) and returns their numbers: [n].

        idle_ttl, lifetime: seconds, of all or of each [n].
        """
        count = len(ids)
        sessions = self._numbers(count)
        made = tokens.token_bytes(count * _TOKEN_BYTES).hex()
        for index, session in enumerate(sessions.tolist()):
            session_id = ids[index]
            if not names_one(session_id):
                session_id += made[2 * _TOKEN_BYTES * index : 2 * _TOKEN_BYTES * (index + 1)]
            tenant = self.tenants.number(tenant_of(session_id))
            self.tenant[session], self._place[session] = tenant, self.tenants.opened(tenant)
            self._ids[session] = session_id
            self._by_id[session_id] = session
            self._tombstones.forget([session_id])
        self.renew_secrets(sessions)
        open_sessions(self.sessions, sessions, slots, now)
        self.epoch[sessions], self.bitwise[sessions] = 0, True
        self.opened_at[sessions], self.opened_unix[sessions] = now, np.nan
        self.idle_ttl[sessions] = idle_ttl
        self.dies_at[sessions] = now + lifetime
        if count:
            self.next_deadline = min(self.next_deadline, now + float(np.min(idle_ttl)), now + float(np.min(lifetime)))
        return sessions

    def renew_secrets(self, sessions: Ints) -> None:
        """Makes new secrets: those of before prove nothing any more."""
        secrets = tokens.token_bytes(len(sessions) * _TOKEN_BYTES)
        parts = [secrets[start : start + _TOKEN_BYTES] for start in range(0, len(secrets), _TOKEN_BYTES)]
        digests = b"".join(hashlib.sha256(part).digest() for part in parts)
        self._secrets[sessions] = np.frombuffer(secrets, np.uint8).reshape(-1, _TOKEN_BYTES)
        self.digests[sessions] = np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES)
        self._knows_secret[sessions] = True

    def take_up(self, sessions: Ints, opened_at: Floats, used_at: Floats, digests: NDArray[np.uint8], epochs: Ints) -> None:
        """Sessions that were just opened were open in a former life: [n] of each.

        opened_at, used_at: monotonic seconds, of the last step. digests: of the secrets, which are not known here.
        """
        self.opened_at[sessions] = opened_at
        self.sessions["used_at"][sessions] = used_at
        self._secrets[sessions], self._knows_secret[sessions] = 0, False
        self.digests[sessions] = digests
        self.epoch[sessions] = epochs
        self.next_deadline = min(self.next_deadline, float((used_at + self.idle_ttl[sessions]).min(initial=np.inf)))

    def knows_secrets(self, sessions: Ints) -> NDArray[np.bool_]:
        """Mask [n]: True for sessions whose secrets are known, beside their digests."""
        known: NDArray[np.bool_] = self._knows_secret[sessions]
        return known

    def end(self, sessions: Ints, ending: Ending | None, now: float) -> None:
        """Removes sessions and remembers why, if there is a reason, except those whose ids others have."""
        for session in sessions.tolist():
            session_id = self._ids[session]
            if session in self.replaced:
                self.replaced.remove(session)
            else:
                del self._by_id[session_id]
                if ending is not None:
                    self._tombstones.remember(session_id, ending, now)
            self.over.pop(session, None)
            self._ids[session] = ""
            self._free.append(session)
        self._secrets[sessions], self.digests[sessions] = 0, 0
        self.tenants.ended(self.tenant[sessions].tolist())
        end_sessions(self.sessions, sessions)

    def give_up_id(self, session: int) -> None:
        """The session can no longer be found, so that another one can be opened under its id."""
        del self._by_id[self._ids[session]]
        self.replaced.add(session)

    def find(self, session_id: str) -> int:
        """Number of an open session. Raises StepStreamError: not found, closed, expired, evicted, moved, or barred."""
        session = self._by_id.get(session_id)
        if session is not None:
            return session
        self.refuse_if_barred(session_id)
        ending = self.ending(session_id)
        if ending is None:
            raise CallerError(Reason.SESSION_NOT_FOUND, f"there is no session {plain(session_id)!r}", field="id")
        raise CallerError(REASON_OF_ENDING[ending], f"session {plain(session_id)!r} {HOW_ENDED[ending]}", field="id")

    def refuse_if_barred(self, session_id: str) -> None:
        """Raises StepStreamError if nothing can be found or opened under the id now."""
        if self.barred and (error := self.barred.get(session_id)) is not None:
            raise error.with_traceback(None)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._by_id

    def has_all(self, session_ids: Iterable[str]) -> bool:
        """Tells whether sessions are open under all of these ids."""
        return all(map(self._by_id.__contains__, session_ids))

    def numbers(self, session_ids: Sequence[str]) -> Ints:
        """Number of each open session; -1 where there is none: [n]."""
        return np.array([self._by_id.get(session_id, NONE) for session_id in session_ids], np.int64)

    def ending(self, session_id: str) -> Ending | None:
        """Why a session ended, while that is remembered."""
        return self._tombstones.find(session_id, self._now)

    def remember_ending(self, session_id: str, ending: Ending, now: float) -> None:
        """A session has ended that was not open here."""
        self._tombstones.remember(session_id, ending, now)

    def id(self, session: int) -> str:
        """The id of an open session."""
        return self._ids[session]

    def secrets(self, sessions: Ints) -> list[bytes]:
        """Gives what proves the ownership of each: [n]; they are known."""
        data = self._secrets[sessions].tobytes()
        return [data[start : start + _TOKEN_BYTES] for start in range(0, len(data), _TOKEN_BYTES)]

    def own(self, session_id: str, secret: bytes) -> int:
        """Number of an open session, for whoever has its secret. Raises CallerError."""
        session = self.find(session_id)
        known, digest = self._secrets[session].tobytes(), self.digests[session].tobytes()
        shown, wanted = (secret, known) if self._knows_secret[session] else (hashlib.sha256(secret).digest(), digest)
        if not tokens.compare_digest(wanted, shown):
            raise CallerError(Reason.SECRET_MISMATCH, f"secret: not that of session {plain(session_id)!r}", field="secret")
        return session

    def claim(self, session_id: str, secret: bytes, *, always: bool = False) -> int:
        """Number of an open session for a one-shot caller, who needs its secret while a stream holds it. Raises CallerError.

        always: the secret is needed in any case.
        """
        if secret or always:
            return self.own(session_id, secret)
        session = self.find(session_id)
        if self.stream[session] != NO_STREAM:
            message = f"session {plain(session_id)!r} is attached to a stream; its secret is needed"
            raise CallerError(Reason.SESSION_IN_USE, message, field="secret")
        return session

    def move(self, session: int, event: Event) -> None:
        """Moves a session's status. Raises ValueError where there is no such move."""
        move(self.sessions[session], event)

    def quarantined(self, sessions: Ints) -> NDArray[np.bool_]:
        """Mask [n]: True for sessions that must be reset, or are about to be."""
        status = self.status[sessions]
        quarantined: NDArray[np.bool_] = (status == Status.QUARANTINED) | (status == Status.RESETTING)
        return quarantined

    def rolled(self, session: int, seq: int) -> bool:
        """Tells whether a rollout has taken the number: it is among the last ones without a gap that rollouts took."""
        record = self.sessions[session]
        return bool(record["rolled_from"] <= seq < record["rolled_to"])

    def alive(self, session: int, generation: int) -> bool:
        """Tells whether the session of that generation is open."""
        return bool(self.generation[session] == generation and self.status[session] != Status.FREE)

    def page(self, tenant: str, start: int, most: int) -> tuple[Ints, int | None]:
        """A tenant's sessions that can be found, as they were opened, from place `start` on; and the place where the next page
        starts, or None if these are the last. Places count what the tenant has opened, so that they tell nothing of others."""
        used = slice(self._high)
        wanted = (
            (self.tenant[used] == self.tenants.find(tenant)) & (self._place[used] >= start) & (self.status[used] != Status.FREE)
        )
        wanted[list(self.replaced)] = False
        found = np.flatnonzero(wanted)
        if len(found) > most + 1:
            found = found[np.argpartition(self._place[found], most)[: most + 1]]
        found = found[np.argsort(self._place[found])]
        return found[:most], int(self._place[found[most]]) if len(found) > most else None

    def attached_to(self, stream: int) -> Ints:
        """Sessions that a stream holds."""
        return np.flatnonzero(self.stream[: self._high] == stream)

    def held_as(self, sessions: Ints, generations: Ints, stream: int, handles: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Mask [n]: True for sessions that still exist in that generation and that the stream holds under that handle."""
        held: NDArray[np.bool_] = (
            (self.generation[sessions] == generations) & (self.stream[sessions] == stream) & (self.handle[sessions] == handles)
        )
        return held

    def expired(self, now: float, most: int) -> Ints:
        """At most so many sessions whose time is over. A session with steps pending is not idle, nor is one with a rollout.

        All sessions are looked at, and not before the earliest deadline that the last look found: using a session only moves
        its deadline back. At 100,000 sessions a look takes about 1 ms; a heap took 130 bytes per session and 1 us per opening.
        """
        self._now = now
        self._tombstones.forget_overdue(now)
        if now < self.next_deadline:
            return _NOBODY
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


def is_id(key: str) -> bool:
    """Tells whether the id of a key is well-formed."""
    session_id = plain(key)
    return 0 < len(session_id) <= ID_LENGTH and _ID_CHARACTERS.issuperset(session_id)


def _read_only(column: NDArray[Any]) -> NDArray[Any]:
    view = column.view()
    view.flags.writeable = False
    return view


@compiled
def open_sessions(records: NDArray[Any], numbers: Ints, slots: Ints, now: float) -> None:
    """Fills the records of new sessions."""
    for place in range(len(numbers)):
        session = records[numbers[place]]
        move(session, Event.OPENED)
        ledger.begin_at(session, 0, 0, 0)
        session["slot"], session["stream"], session["stop_at"] = slots[place], NO_STREAM, NEVER
        session["served"], session["used_at"] = 0, now
        session["durable"], session["dirty"], session["durable_seq"] = False, False, 0
        session["head"], session["tail"] = NONE, NONE


@compiled
def end_sessions(records: NDArray[Any], numbers: Ints) -> None:
    """Empties the records of sessions that have ended, of which nothing is queued."""
    for number in numbers:
        session = records[number]
        move(session, Event.ENDED)
        session["stream"], session["over"] = NO_STREAM, False
        session["generation"] += 1
