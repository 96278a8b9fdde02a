"""One `Stream` call of the contract: its reader turns requests into commands, and its writer outcomes into messages."""

from __future__ import annotations

import time
from collections.abc import Callable

from stepstream_proto.v1 import inference_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine.ports import Detached, RowErrors
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.rpc.deliveries import Piece
from stepstream_server.rpc.engine_client import EngineClient
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.stream.call import Call
from stepstream_server.rpc.stream.flow_control import Unread
from stepstream_server.rpc.stream.members import Handles, Members
from stepstream_server.rpc.stream.reader import Reader
from stepstream_server.rpc.stream.registry import StreamIdentity
from stepstream_server.rpc.stream.writer import Writer, encode_drain, encode_row_error


class Stream(Call):
    """A `Holder` of sessions of every model that it uses."""

    def __init__(
        self,
        number: int,
        models: Models,
        settings: DoorSettings,
        unread: Unread,
        clock: Callable[[], float] = time.monotonic,
        *,
        identity: StreamIdentity = StreamIdentity(),  # noqa: B008  # immutable
    ) -> None:
        super().__init__(settings, unread)
        flow = self._credits, self._lookahead
        self._handles = Handles(settings.max_handles_per_stream)
        self._writer = Writer(settings.max_message_bytes, unread, self.grown)
        self._members = Members(number, identity, self, models, settings.max_block_steps, self._handles, *flow, self._writer)
        self._requests = Reader(number, self._members, settings, self._handles, *flow, self._writer, clock)

    @property
    def unread_bytes(self) -> int:
        return self._writer.bytes

    def take(self, request: inference_pb2.StreamRequest) -> None:
        self._requests.take(request)

    def next(self) -> tuple[bytes, int] | None:
        return self._writer.next()

    def drain(self, seconds: float) -> None:
        self._writer.control(encode_drain(seconds), 0)

    def let_go(self) -> None:
        self._members.end()
        self._writer.clear()

    def answered(self, engine: EngineClient, piece: Piece) -> None:
        steps = piece.steps
        if piece.last - piece.first == 1:
            handle, _, length, _ = piece.turn.rows()[piece.first]
            sent_again = steps - self._handles.settle_one(handle, length)
        else:
            rows, answers = slice(piece.first, piece.last), piece.turn.answers
            sent_again = steps - self._handles.settle(answers.handles[rows], answers.lengths[rows])
        if sent_again:
            self._credits.take(sent_again * engine.step_credits)  # nobody has paid for them
        self._writer.answers(engine, piece, steps * engine.step_credits)

    def refused(self, engine: EngineClient, errors: RowErrors, row: int) -> None:
        if errors.reasons[row] is Reason.HANDLE_UNKNOWN and self._handles.stands(errors.handles[row]):
            return  # meant the session that the handle stood for before
        steps = self._handles.settle_one(errors.handles[row], errors.lengths[row])
        self._writer.errors(engine, [encode_row_error(errors, row)], steps * engine.step_credits)

    def detached(self, engine: EngineClient, detached: Detached, row: int) -> None:
        handle = detached.handles[row]
        if self._handles.stands(handle):  # else an earlier ending crossed the request to detach
            steps = self._handles.free(handle)
            self._writer.detached(handle, detached.endings[row], steps * engine.step_credits)

    def failed(self, engine: EngineClient, error: StepStreamError) -> None:
        self.fail(error)
