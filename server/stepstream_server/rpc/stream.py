"""One `Stream` call: `intake` turns what is read into commands; here engines' outcomes become messages."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from stepstream_proto.v1 import inference_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine.ports import Detached, RowErrors
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.rpc.answers import Piece
from stepstream_server.rpc.convert.rollouts import Drawn
from stepstream_server.rpc.convert.streams import encode_drain, encode_row_error
from stepstream_server.rpc.credits import Credits
from stepstream_server.rpc.door import ModelDoor
from stepstream_server.rpc.duplex import Duplex
from stepstream_server.rpc.handles import Handles
from stepstream_server.rpc.intake import Intake
from stepstream_server.rpc.interceptors import Context
from stepstream_server.rpc.lookahead import Lookahead
from stepstream_server.rpc.membership import Membership
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.outgoing import Outgoing, Unread
from stepstream_server.rpc.succession import Place


class Stream:
    """On the event loop's thread. A `Listener` of every model whose sessions it carries.

    `on_full` is called when clients leave more unread than they may.
    """

    def __init__(
        self,
        number: int,
        models: Models,
        settings: DoorSettings,
        unread: Unread,
        on_full: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        place: Place = Place(),  # noqa: B008  # immutable
    ) -> None:
        self._handles = Handles(settings.max_handles_per_stream)
        self._credits = Credits(settings.stream_credit_steps)
        self._outgoing = Outgoing(settings.max_message_bytes, unread)
        self._unread = unread
        self._on_full = on_full
        lookahead = Lookahead()
        self._membership = Membership(
            number,
            place,
            self,
            models,
            settings.max_block_steps,
            self._handles,
            self._credits,
            lookahead,
            self._outgoing,
            self._grown,
        )
        self._intake = Intake(number, self._membership, settings, self._handles, self._credits, lookahead, self._outgoing, clock)
        self._duplex = Duplex(self._take, self._next, self._credits, lookahead)

    @property
    def unread_bytes(self) -> int:
        """What waits to be written, nearly."""
        return self._outgoing.bytes

    async def run(self, context: Context, opening: Awaitable[None]) -> None:
        """Reads and writes, once `opening` is done and until both sides are. Raises what makes it impossible to go on."""
        await self._duplex.run(context, opening)

    def drain(self, seconds: float) -> None:
        """Tells the client that streams are ended in so many seconds."""
        self._outgoing.control(encode_drain(seconds), 0)
        self._duplex.grown()

    def finish(self) -> None:
        """Reads no more; the stream ends once all that was read is answered."""
        self._duplex.finish()

    def abandon(self, error: StepStreamError) -> None:
        """Ends the stream from this side; its client hears the error if it reads again."""
        self.end()
        self._duplex.fail(error)

    def end(self) -> None:
        """The call is over: stops reading, lets all sessions go and drops what is unread."""
        self._duplex.stop_reading()
        self._membership.end()
        self._outgoing.clear()

    def answered(self, door: ModelDoor, piece: Piece) -> None:
        steps = piece.steps
        if piece.last - piece.first == 1:
            handle, _, length, _ = piece.turn.rows()[piece.first]
            sent_again = steps - self._handles.settle_one(handle, length)
        else:
            rows, answers = slice(piece.first, piece.last), piece.turn.answers
            sent_again = steps - self._handles.settle(answers.handles[rows], answers.lengths[rows])
        if sent_again:
            self._credits.take(sent_again * door.step_credits)  # nobody has paid for them
        self._outgoing.answers(door, piece, steps * door.step_credits)
        self._grown()

    def refused(self, door: ModelDoor, errors: RowErrors, row: int) -> None:
        if errors.reasons[row] is Reason.HANDLE_UNKNOWN and self._handles.stands(errors.handles[row]):
            return  # meant the session that the handle stood for before
        steps = self._handles.settle_one(errors.handles[row], errors.lengths[row])
        self._outgoing.errors(door, [encode_row_error(errors, row)], steps * door.step_credits)
        self._grown()

    def rolled(self, drawn: Drawn) -> None:
        """Never: it has no rollout."""

    def detached(self, door: ModelDoor, detached: Detached, row: int) -> None:
        handle = detached.handles[row]
        if self._handles.stands(handle):  # else an earlier ending crossed the request to detach
            steps = self._handles.free(handle)
            self._outgoing.detached(handle, detached.endings[row], steps * door.step_credits)
            self._grown()

    def failed(self, door: ModelDoor, error: StepStreamError) -> None:
        self._duplex.fail(error)

    def _take(self, request: inference_pb2.StreamRequest) -> None:
        self._intake.take(request)
        if self._outgoing:  # something could be answered at once
            self._grown()

    def _next(self) -> tuple[bytes, int] | None:
        message = self._outgoing.next()
        return None if message is None else (message.encode(), message.credits)

    def _grown(self) -> None:
        self._duplex.grown()
        if self._unread.bytes > self._unread.limit:
            self._on_full()
