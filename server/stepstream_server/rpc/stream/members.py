"""Which sessions a stream holds: opens and attaches them under handles, and lets all of them go at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine import ports
from stepstream_server.engine.ports import Ints, Opened
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc import columns, fields
from stepstream_server.rpc.callers import Party
from stepstream_server.rpc.engine_client import EngineClient, Holder
from stepstream_server.rpc.models import Models, encode_window
from stepstream_server.rpc.sessions import decode_idle_ttl
from stepstream_server.rpc.stream.flow_control import Flow
from stepstream_server.rpc.stream.writer import Writer, encode_attached, encode_attached_session
from stepstream_server.tenancy import scoped, scoped_request

FREE = 0
WAITING = -1  # asked for by Open or Attach, not yet answered
LEAVING = -2  # Detach asked for, not yet confirmed
_OUTSTANDING = 3  # the place of its column
_FIRST_SIZE = 16  # handles that an ordinary stream has room for before it grows: 0.5 KB
_LARGEST = (1 << 63) - 1  # counts beyond it are clamped: they are above any next_seq
_SHOWN = 128  # characters of an id or a model's name that an answer repeats: what a valid id may have


class Handles:
    """Which session each handle of one stream stands for, and how many outcomes it still waits for.

    Owners are small numbers of the stream's own, from 1, one per model that it uses; 0 and below: no session. Dense arrays
    indexed by handle, so that a block of a thousand rows is looked up in a few array operations. The table grows with the largest
    handle in use and is bounded. A single row is looked up without indexing by an array: that would let go of the interpreter
    lock for a moment, and getting it back from a busy engine costs 40 us.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # One row per column, so that a table in the making is one piece of memory.
        self._set(np.zeros((4, _FIRST_SIZE), np.int64))

    def _set(self, table: Ints) -> None:
        """table: owners, session indices, generations, and outcomes that will arrive, in steps."""
        self._table = table
        self._owners: Ints = table[0]
        self._sessions: Ints = table[1]
        self._generations: Ints = table[2]
        self._outstanding: Ints = table[3]
        self._at = [memoryview(column) for column in table]  # elements in a third of the time that an array takes

    def reserve(self, handle: int) -> None:
        """Takes a free handle for a session that is being opened or attached.

        Raises CallerError(HANDLE_IN_USE), or CallerError(INVALID_ARGUMENT) for a handle beyond the limit.
        """
        if handle >= self._limit:
            raise CallerError(
                Reason.INVALID_ARGUMENT, f"handles: expected numbers below {self._limit}, got {handle}", field="handles"
            )
        if handle >= len(self._owners):
            self._grow(handle + 1)
        if self._owners[handle] != FREE:
            raise CallerError(Reason.HANDLE_IN_USE, f"handles: {handle} already stands for a session", field="handles")
        self._owners[handle] = WAITING

    def bind(self, handle: int, owner: int, opened: Opened) -> None:
        """Makes a reserved handle stand for a session."""
        self._owners[handle] = owner
        self._sessions[handle] = opened.session
        self._generations[handle] = opened.generation

    def leave(self, handles: NDArray[np.uint32]) -> None:
        """Marks handles that stand for sessions as leaving."""
        self._owners[handles] = LEAVING

    def free(self, handle: int) -> int:
        """Gives a handle back. Returns how many steps of outcomes will not arrive any more."""
        self._owners[handle] = FREE
        settled = int(self._outstanding[handle])
        self._outstanding[handle] = 0
        return settled

    def stands(self, handle: int) -> bool:
        """Whether the handle stands for a session, if only until its detach is confirmed."""
        return handle < len(self._owners) and (self._owners[handle] > FREE or self._owners[handle] == LEAVING)

    def common_owner(self, handles: NDArray[np.uint32]) -> int:
        """The owner of all of these handles (at least one), 0 or below if there is not one owner of all."""
        owners = self.owners(handles)
        owner: int = owners.item(0)
        return owner if np.logical_and.reduce(owners == owner) else FREE

    def find(self, handle: int) -> tuple[int, int, int]:
        """Owner, session index and generation of one handle; the owner is 0 or below where it stands for no session."""
        owners, sessions, generations, _ = self._at
        return (owners[handle], sessions[handle], generations[handle]) if handle < len(owners) else (FREE, 0, 0)

    def owners(self, handles: NDArray[np.uint32]) -> Ints:
        """Owner of each handle, 0 or below where it stands for no session."""
        try:
            return self._owners[handles]
        except IndexError:
            size = len(self._owners)
            return np.where(handles < size, self._owners[np.minimum(handles, size - 1)], FREE)

    def sessions(self, handles: NDArray[np.uint32]) -> tuple[Ints, Ints]:
        """Session index and generation of handles that stand for one."""
        return self._sessions[handles], self._generations[handles]

    def expect(self, handles: NDArray[np.uint32], steps: Ints) -> None:
        """Remembers that outcomes of so many steps will arrive. A handle may occur more than once."""
        np.add.at(self._outstanding, handles, steps)

    def expect_one(self, handle: int, steps: int) -> None:
        """Remembers that outcomes of so many steps of one handle will arrive."""
        self._at[_OUTSTANDING][handle] += steps

    def settle(self, handles: Ints, steps: Ints, total: int) -> int:
        """Takes outcomes that arrived, of so many steps in total. Returns how many of them were expected: kept answers sent
        again were not."""
        outstanding = self._outstanding
        np.subtract.at(outstanding, handles, steps)
        excess = 0
        if np.minimum.reduce(outstanding[handles]) < 0:
            over = np.unique(handles[outstanding[handles] < 0])
            excess = -int(outstanding[over].sum())
            outstanding[over] = 0
        return total - excess

    def settle_one(self, handle: int, steps: int) -> int:
        """Takes outcomes of one handle. Returns how many of the steps were expected."""
        outstanding = self._at[_OUTSTANDING]
        left = outstanding[handle]
        settled = steps if steps <= left else left
        outstanding[handle] = left - settled
        return settled

    def _grow(self, size: int) -> None:
        """At least doubles the table, so that growing costs O(1) per handle over time. The system provides the memory of what is
        added when it is written: one large handle alone costs a page for each column."""
        old = len(self._owners)
        table = np.zeros((4, max(size, 2 * old)), np.int64)
        table[:, :old] = self._table
        self._set(table)


@dataclass(slots=True)
class _Asked:
    """A session that the stream wants, and what has become of that."""

    handle: int
    id: str
    secret: bytes = b""
    acked: int = 0
    replay_from: int = ports.NO_SEQ
    error: StepStreamError | None = None


class Members:
    """The sessions of one stream, of any number of models."""

    def __init__(
        self,
        number: int,
        party: Party,
        holder: Holder,
        models: Models,
        most: int,
        handles: Handles,
        flow: Flow,
        writer: Writer,
    ) -> None:
        self.engines: list[EngineClient] = []  # that this stream uses; in the handle table, the first is owner 1
        self._number = number
        self._party = party
        self._holder = holder
        self._models = models
        self._most = most  # sessions that a message may name at all
        self._handles = handles
        self._credits, self._lookahead, _ = flow
        self._writer = writer
        self._questions: set[tuple[EngineClient, int]] = set()  # awaiting a reply: the engine and its request number

    def open(self, message: inference_pb2.OpenOnStream) -> None:
        """Answered by Attached. Raises CallerError for handles that cannot be read or are too many to answer each."""
        asked = [_Asked(handle, "") for handle in columns.handles_column(message.handles, self._most).tolist()]
        self._credits.take(_price(asked))
        try:
            engine = self._listen(message.model, message.version)
            idle_ttl = decode_idle_ttl(message)
            ids = fields.decode_ids("ids", message.ids, len(asked))
            request_id = scoped_request(self._party.tenant, fields.check_request_id(message.request_id))
        except StepStreamError as error:
            self._refuse(message, asked, error)
            return
        for each, id in zip(asked, ids, strict=True):
            each.id = id
        wanted = self._reserve(asked)
        if request_id and len(wanted) < len(asked):
            self._give_up(wanted)
        wanted = [each for each in wanted if each.error is None]
        handles = np.array([each.handle for each in wanted], np.uint32)
        keys = [self._key(each) for each in wanted]
        name, number = self._party.name, self._party.number
        self._ask(
            engine,
            asked,
            lambda request: ports.Open(self._number, request, keys, handles, idle_ttl, request_id, name, number, message.durable),
            new=not request_id,
        )

    def attach(self, message: inference_pb2.Attach) -> None:
        """Answered by Attached. Raises CallerError for sessions that are too many to answer each."""
        columns.check_rows("sessions", len(message.sessions), self._most)
        asked = [_to_attach(each) for each in message.sessions]
        self._credits.take(_price(asked))
        try:
            engine = self._listen(message.model, message.version)
            fields.check_count(len(asked))
        except StepStreamError as error:
            self._refuse(message, asked, error)
            return
        wanted = self._reserve(asked)
        handles = np.array([each.handle for each in wanted], np.uint32)
        acked = np.array([each.acked for each in wanted], np.int64)
        replay_from = np.array([each.replay_from for each in wanted], np.int64)
        keys, secrets = [self._key(each) for each in wanted], [each.secret for each in wanted]
        name, number = self._party.name, self._party.number
        self._ask(
            engine,
            asked,
            lambda request: ports.Attach(self._number, request, handles, keys, secrets, acked, name, number, replay_from),
            new=False,
        )

    def end(self) -> None:
        """The stream is over: nobody is left to be answered."""
        for engine, request in self._questions:
            engine.withdraw(request)
        self._questions.clear()
        for engine in self.engines:
            engine.leave(self._number)

    def _listen(self, model: str, version: int) -> EngineClient:
        """The engine of a model, which from now on brings this stream's outcomes. Raises StepStreamError."""
        engine = self._models.find(model, version)
        if engine not in self.engines:
            engine.hold(self._number, self._holder)
            self.engines.append(engine)
        return engine

    def _key(self, asked: _Asked) -> str:
        """Under which the engine knows the session."""
        return scoped(self._party.tenant, asked.id)

    def _reserve(self, asked: list[_Asked]) -> list[_Asked]:
        """Takes the handles. Returns the sessions that got theirs; the others have their error."""
        for each in asked:
            if each.error is None:
                try:
                    self._handles.reserve(each.handle)
                except CallerError as error:
                    each.error = error
        return [each for each in asked if each.error is None]

    def _give_up(self, wanted: list[_Asked]) -> None:
        """A repeat must ask for the same sessions, so that with a request id handles are had all together or not at all."""
        for each in wanted:
            self._handles.free(each.handle)
            each.error = CallerError(
                Reason.HANDLE_IN_USE, "handles: with a request_id, expected all of them to be free", field="handles"
            )

    def _ask(self, engine: EngineClient, asked: list[_Asked], command: Callable[[int], ports.Command], *, new: bool) -> None:
        """Submits Open or Attach; what was refused here is answered with the reply, or at once if nothing else is left."""
        if all(each.error for each in asked):
            self._attached(engine, asked, [])
        else:
            # Sessions that exist already bring up to a window of answers, which nobody has paid for: so many at once.
            ahead = 0 if new else len(asked) * engine.window_credits

            def answer(value: Any) -> None:
                self._credits.give(ahead)
                self._attached(engine, asked, value)

            self._credits.take(ahead)
            self._question(engine, command, answer)

    def _question(self, engine: EngineClient, command: Callable[[int], ports.Command], answer: Callable[[Any], None]) -> None:
        """Submits a command whose reply, or the error of an engine that has crashed, goes to `answer`."""

        def replied(value: Any) -> None:
            self._questions.discard((engine, request))
            answer(value)

        request = engine.question(replied)
        self._questions.add((engine, request))
        engine.submit(command(request))
        self._lookahead.sent(engine)

    def _attached(
        self, engine: EngineClient, asked: list[_Asked], replied: list[Opened | StepStreamError] | StepStreamError
    ) -> None:
        """`replied`: what became of those that got their handles."""
        results = repeat(replied) if isinstance(replied, StepStreamError) else iter(replied)
        sessions = [self._settle(engine, each, each.error or next(results)) for each in asked]
        response = encode_attached(engine.spec.name, engine.spec.version, sessions)
        response.attached.window.CopyFrom(encode_window(engine))
        self._writer.control(response, _price(asked))

    def _settle(self, engine: EngineClient, asked: _Asked, result: Opened | StepStreamError) -> inference_pb2.AttachedSession:
        if isinstance(result, Opened):
            self._handles.bind(asked.handle, self.engines.index(engine) + 1, result)
        elif asked.error is None:
            self._handles.free(asked.handle)
        return encode_attached_session(asked.handle, asked.id, result)

    def _refuse(
        self, message: inference_pb2.OpenOnStream | inference_pb2.Attach, asked: list[_Asked], error: StepStreamError
    ) -> None:
        """None of them can be had. As many may have been asked for as one message cannot answer."""
        for start in range(0, _price(asked), fields.MAX_SESSIONS_PER_MESSAGE):
            part = asked[start : start + fields.MAX_SESSIONS_PER_MESSAGE]
            sessions = [encode_attached_session(each.handle, each.id, error) for each in part]
            self._writer.control(encode_attached(message.model[:_SHOWN], message.version, sessions), _price(part))


def _price(asked: list[_Asked]) -> int:
    """Credits of a message and its answer: even one that asks for nothing is answered."""
    return max(1, len(asked))


def _to_attach(wanted: inference_pb2.AttachSession) -> _Asked:
    replay_from = min(wanted.replay_from, _LARGEST) if wanted.HasField("replay_from") else ports.NO_SEQ
    asked = _Asked(wanted.handle, wanted.id[:_SHOWN], wanted.secret, min(wanted.acked, _LARGEST), replay_from)
    try:
        fields.check_id("id", wanted.id)
    except CallerError as error:
        asked.error = error
    return asked
