"""One `Stream` call of the contract: its reader turns requests into commands, and its writer outcomes into messages."""

from __future__ import annotations

import time
from collections.abc import Callable

from stepstream_server.engine.ports import Detached, Durables, RowErrors
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.rpc.callers import Party
from stepstream_server.rpc.deliveries import Piece
from stepstream_server.rpc.engine_client import EngineClient
from stepstream_server.rpc.quotas import Pace
from stepstream_server.rpc.stream.call import Call, Common
from stepstream_server.rpc.stream.flow_control import Credits, Flow, Lookahead
from stepstream_server.rpc.stream.members import Handles, Members
from stepstream_server.rpc.stream.reader import Reader
from stepstream_server.rpc.stream.writer import Writer, encode_drain, encode_row_error


class Stream(Call):
    """A `Holder` of sessions of every model that it uses."""

    def __init__(
        self,
        number: int,
        party: Party,
        common: Common,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        settings = common.settings
        flow = Flow(Credits(settings.stream_credit_steps), Lookahead(), Pace(common.quotas, party.tenant))
        self._handles = Handles(settings.max_handles_per_stream)
        self._writer = Writer(settings.max_message_bytes, common.unread, self.grown)
        self._members = Members(number, party, self, common.models, settings.max_block_steps, self._handles, flow, self._writer)
        reader = Reader(number, self._members, settings, self._handles, flow, self._writer, clock)
        super().__init__(reader.take, self._writer.next, party, flow, common)

    @property
    def unread_bytes(self) -> int:
        return self._writer.bytes

    def drain(self, seconds: float, *, resume: bool) -> None:
        self._writer.control(encode_drain(seconds, resume=resume), 0)

    def let_go(self) -> None:
        self._members.end()
        self._writer.clear()

    def answered(self, engine: EngineClient, piece: Piece) -> None:
        turn, first, last, *_ = piece
        if last - first == 1:
            handle, _, steps, _ = turn.rows()[first]
            settled = self._handles.settle_one(handle, steps)
        else:
            handles, lengths = turn.answers.handles[first:last], turn.answers.lengths[first:last]
            steps = last - first if turn.single else int(lengths.sum())
            settled = self._handles.settle(handles, lengths, steps)
        if settled < steps:
            self._credits.take((steps - settled) * engine.step_credits)  # nobody has paid for them: they are sent again
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
            error = detached.errors[row] if detached.errors else None
            self._writer.detached(handle, detached.endings[row], steps * engine.step_credits, error)

    def durable(self, engine: EngineClient, durables: Durables, row: int) -> None:
        self._writer.durable(durables.handles[row], durables.counts[row])

    def failed(self, engine: EngineClient, error: StepStreamError) -> None:
        self.fail(error)
