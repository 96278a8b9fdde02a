"""Which sessions a stream holds: opens and attaches them under handles, and lets all of them go at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine import ports
from stepstream_server.engine.ports import Opened
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc import columns
from stepstream_server.rpc.convert import fields, streams
from stepstream_server.rpc.convert.models import encode_window
from stepstream_server.rpc.convert.sessions import decode_idle_ttl
from stepstream_server.rpc.credits import Credits
from stepstream_server.rpc.door import Listener, ModelDoor
from stepstream_server.rpc.handles import Handles
from stepstream_server.rpc.lookahead import Lookahead
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.outgoing import Outgoing
from stepstream_server.rpc.succession import Place

_LARGEST = (1 << 63) - 1  # counts beyond it are clamped: they are above any next_seq
_SHOWN = 128  # characters of an id or a model's name that an answer repeats: what a valid id may have


@dataclass(slots=True)
class _Asked:
    """A session that the stream wants, and what has become of that."""

    handle: int
    id: str
    secret: bytes = b""
    acked: int = 0
    error: StepStreamError | None = None


class Membership:
    """The sessions of one stream, of any number of models. `ready` is called when something is there to be written."""

    def __init__(
        self,
        number: int,
        place: Place,
        listener: Listener,
        models: Models,
        most: int,
        handles: Handles,
        credits: Credits,
        lookahead: Lookahead,
        outgoing: Outgoing,
        ready: Callable[[], None],
    ) -> None:
        self._doors: list[ModelDoor] = []  # in the handle table, the first is owner 1
        self._number = number
        self._place = place
        self._listener = listener
        self._models = models
        self._most = most  # sessions that a message may name at all
        self._handles = handles
        self._credits = credits
        self._lookahead = lookahead
        self._outgoing = outgoing
        self._ready = ready
        self._questions: set[tuple[ModelDoor, int]] = set()  # awaiting a reply: the door and its request number

    def open(self, message: inference_pb2.OpenOnStream) -> None:
        """Answered by Attached. Raises CallerError for handles that cannot be read or are too many to answer each."""
        asked = [_Asked(handle, "") for handle in columns.handles_column(message.handles, self._most).tolist()]
        self._credits.take(_price(asked))
        try:
            door = self._listen(message.model, message.version)
            idle_ttl = decode_idle_ttl(message)
            ids = fields.decode_ids("ids", message.ids, len(asked))
            request_id = fields.check_request_id(message.request_id)
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
        ids = [each.id for each in wanted]
        self._ask(
            door,
            asked,
            lambda request: ports.Open(self._number, request, ids, handles, idle_ttl, request_id, *self._place),
            new=not request_id,
        )

    def attach(self, message: inference_pb2.Attach) -> None:
        """Answered by Attached. Raises CallerError for sessions that are too many to answer each."""
        columns.check_rows("sessions", len(message.sessions), self._most)
        asked = [_to_attach(each) for each in message.sessions]
        self._credits.take(_price(asked))
        try:
            door = self._listen(message.model, message.version)
            fields.check_count(len(asked))
        except StepStreamError as error:
            self._refuse(message, asked, error)
            return
        wanted = self._reserve(asked)
        handles = np.array([each.handle for each in wanted], np.uint32)
        acked = np.array([each.acked for each in wanted], np.int64)
        ids, secrets = [each.id for each in wanted], [each.secret for each in wanted]
        self._ask(
            door,
            asked,
            lambda request: ports.Attach(self._number, request, handles, ids, secrets, acked, *self._place),
            new=False,
        )

    def door(self, owner: int) -> ModelDoor:
        """That of an owner in the handle table."""
        return self._doors[owner - 1]

    def owners(self) -> Iterator[tuple[int, ModelDoor]]:
        """Every model that this stream uses, by its owner number."""
        return enumerate(self._doors, 1)

    def end(self) -> None:
        """The stream is over: nobody is left to be answered."""
        for door, request in self._questions:
            door.withdraw(request)
        self._questions.clear()
        for door in self._doors:
            door.leave(self._number)

    def _listen(self, model: str, version: int) -> ModelDoor:
        """The door of a model, which from now on brings this stream's outcomes. Raises StepStreamError."""
        door = self._models.find(model, version)
        if door not in self._doors:
            door.listen(self._number, self._listener)
            self._doors.append(door)
        return door

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

    def _ask(self, door: ModelDoor, asked: list[_Asked], command: Callable[[int], ports.Command], *, new: bool) -> None:
        """Submits Open or Attach; what was refused here is answered with the reply, or at once if nothing else is left."""
        if all(each.error for each in asked):
            self._attached(door, asked, [])
        else:
            # Sessions that exist already bring up to a window of answers, which nobody has paid for: so many at once.
            ahead = 0 if new else len(asked) * door.window_credits

            def answer(value: Any) -> None:
                self._credits.give(ahead)
                self._attached(door, asked, value)

            self._credits.take(ahead)
            self._question(door, command, answer)

    def _question(self, door: ModelDoor, command: Callable[[int], ports.Command], answer: Callable[[Any], None]) -> None:
        """Submits a command whose reply, or the error of an engine that has crashed, goes to `answer`."""

        def replied(value: Any) -> None:
            self._questions.discard((door, request))
            answer(value)

        request = door.question(replied)
        self._questions.add((door, request))
        door.submit(command(request))
        self._lookahead.sent(door)

    def _attached(self, door: ModelDoor, asked: list[_Asked], replied: list[Opened | StepStreamError] | StepStreamError) -> None:
        """`replied`: what became of those that got their handles."""
        results = repeat(replied) if isinstance(replied, StepStreamError) else iter(replied)
        sessions = [self._settle(door, each, each.error or next(results)) for each in asked]
        response = streams.encode_attached(door.spec.name, door.spec.version, sessions)
        response.attached.window.CopyFrom(encode_window(door))
        self._write(response, _price(asked))

    def _settle(self, door: ModelDoor, asked: _Asked, result: Opened | StepStreamError) -> inference_pb2.AttachedSession:
        if isinstance(result, Opened):
            self._handles.bind(asked.handle, self._doors.index(door) + 1, result)
        elif asked.error is None:
            self._handles.free(asked.handle)
        return streams.encode_attached_session(asked.handle, asked.id, result)

    def _refuse(
        self, message: inference_pb2.OpenOnStream | inference_pb2.Attach, asked: list[_Asked], error: StepStreamError
    ) -> None:
        """None of them can be had. As many may have been asked for as one message cannot answer."""
        for start in range(0, _price(asked), fields.MAX_SESSIONS_PER_MESSAGE):
            part = asked[start : start + fields.MAX_SESSIONS_PER_MESSAGE]
            sessions = [streams.encode_attached_session(each.handle, each.id, error) for each in part]
            self._write(streams.encode_attached(message.model[:_SHOWN], message.version, sessions), _price(part))

    def _write(self, response: inference_pb2.StreamResponse, credits: int) -> None:
        self._outgoing.control(response, credits)
        self._ready()


def _price(asked: list[_Asked]) -> int:
    """Credits of a message and its answer: even one that asks for nothing is answered."""
    return max(1, len(asked))


def _to_attach(wanted: inference_pb2.AttachSession) -> _Asked:
    asked = _Asked(wanted.handle, wanted.id[:_SHOWN], wanted.secret, min(wanted.acked, _LARGEST))
    try:
        fields.check_id("id", wanted.id)
    except CallerError as error:
        asked.error = error
    return asked
