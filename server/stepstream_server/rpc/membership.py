"""Which sessions a stream holds: opens and attaches them under handles, and lets all of them go at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine import ports
from stepstream_server.engine.ports import Opened
from stepstream_server.errors import CallerError, StepStreamError
from stepstream_server.rpc import columns, convert
from stepstream_server.rpc.credits import Credits
from stepstream_server.rpc.door import Listener, ModelDoor
from stepstream_server.rpc.handles import Handles
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.outgoing import Outgoing

_LARGEST = (1 << 63) - 1  # counts beyond it are clamped: they are above any next_seq


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
        listener: Listener,
        models: Models,
        most: int,
        handles: Handles,
        credits: Credits,
        outgoing: Outgoing,
        ready: Callable[[], None],
    ) -> None:
        self.doors: list[ModelDoor] = []  # by owner number in the handle table
        self._number = number
        self._listener = listener
        self._models = models
        self._most = most  # sessions that a message may name at all
        self._handles = handles
        self._credits = credits
        self._outgoing = outgoing
        self._ready = ready
        self._questions: set[tuple[ModelDoor, int]] = set()  # awaiting a reply: the door and its request number

    def open(self, message: inference_pb2.OpenOnStream) -> None:
        """Answered by Attached. Raises CallerError for handles that cannot be read or are too many to answer each."""
        asked = [_Asked(handle, "") for handle in columns.handles_column(message.handles, self._most).tolist()]
        self._credits.take(len(asked))
        try:
            door = self._door(message.model, message.version)
            idle_ttl = convert.decode_idle_ttl(message)
            ids = convert.decode_ids(message.ids, len(asked))
        except StepStreamError as error:
            self._refuse(message, asked, error)
            return
        for each, id in zip(asked, ids, strict=True):
            each.id = id
        wanted = self._reserve(asked)
        tags = np.array([each.handle for each in wanted], np.uint32)
        ids = [each.id for each in wanted]
        self._ask(door, asked, lambda request: ports.Open(self._number, request, ids, tags, idle_ttl))

    def attach(self, message: inference_pb2.Attach) -> None:
        """Answered by Attached. Raises CallerError for sessions that are too many to answer each."""
        columns.check_rows("sessions", len(message.sessions), self._most)
        asked = [_Asked(each.handle, each.id, each.secret, min(each.acked, _LARGEST)) for each in message.sessions]
        self._credits.take(len(asked))
        try:
            door = self._door(message.model, message.version)
            convert.check_count(len(asked))
        except StepStreamError as error:
            self._refuse(message, asked, error)
            return
        wanted = self._reserve(asked)
        tags = np.array([each.handle for each in wanted], np.uint32)
        acked = np.array([each.acked for each in wanted], np.int64)
        ids, secrets = [each.id for each in wanted], [each.secret for each in wanted]
        self._ask(door, asked, lambda request: ports.Attach(self._number, request, tags, ids, secrets, acked))

    def end(self) -> None:
        """The stream is over: nobody is left to be answered."""
        for door, request in self._questions:
            door.withdraw(request)
        for door in self.doors:
            door.leave(self._number)

    def _door(self, model: str, version: int) -> ModelDoor:
        """The door of a model, which from now on brings this stream's outcomes. Raises StepStreamError."""
        door = self._models.find(model, version)
        if door not in self.doors:
            door.listen(self._number, self._listener)
            self.doors.append(door)
        return door

    def _reserve(self, asked: list[_Asked]) -> list[_Asked]:
        """Takes the handles. Returns the sessions that got theirs; the others have their error."""
        for each in asked:
            try:
                self._handles.reserve(each.handle)
            except CallerError as error:
                each.error = error
        return [each for each in asked if each.error is None]

    def _ask(self, door: ModelDoor, asked: list[_Asked], command: Callable[[int], ports.Command]) -> None:
        """Submits Open or Attach; what was refused here is answered with the reply, or at once if nothing else is left."""
        if all(each.error for each in asked):
            self._attached(door, asked, [])
            return

        def replied(value: Any) -> None:
            self._questions.discard((door, request))
            if not isinstance(value, StepStreamError):  # else the engine has crashed, and the stream ends with it
                self._attached(door, asked, value)

        request = door.question(replied)
        self._questions.add((door, request))
        door.submit(command(request))

    def _attached(self, door: ModelDoor, asked: list[_Asked], replied: list[Opened | StepStreamError]) -> None:
        """`replied`: what became of those that got their handles."""
        results = iter(replied)
        sessions = [self._settle(door, each, each.error or next(results)) for each in asked]
        response = convert.encode_attached(door.spec.name, door.spec.version, sessions)
        response.attached.window.CopyFrom(convert.encode_window(door))
        self._write(response, len(asked))

    def _settle(self, door: ModelDoor, asked: _Asked, result: Opened | StepStreamError) -> inference_pb2.AttachedSession:
        if isinstance(result, Opened):
            self._handles.bind(asked.handle, self.doors.index(door), result)
        elif asked.error is None:
            self._handles.free(asked.handle)
        return convert.encode_attached_session(asked.handle, asked.id, result)

    def _refuse(
        self, message: inference_pb2.OpenOnStream | inference_pb2.Attach, asked: list[_Asked], error: StepStreamError
    ) -> None:
        """None of them can be had. As many may have been asked for as one message cannot answer."""
        sessions = [convert.encode_attached_session(each.handle, each.id, error) for each in asked]
        for start in range(0, len(sessions), convert.MAX_SESSIONS_PER_MESSAGE):
            part = sessions[start : start + convert.MAX_SESSIONS_PER_MESSAGE]
            self._write(convert.encode_attached(message.model, message.version, part), len(part))

    def _write(self, response: inference_pb2.StreamResponse, credits: int) -> None:
        self._outgoing.control(response, credits)
        self._ready()
