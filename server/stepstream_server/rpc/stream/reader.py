"""What a stream reads becomes commands of the engine port.

A block of one row, which is what most messages are, takes a way of its own as long as nothing about it is out of the ordinary:
plain numbers instead of arrays, a fifth of the time.

Rows that can be read but not taken go to their engine as well, to be refused in their place among their sessions' outcomes. Only
rows of handles that stand for no session, and rows whose columns cannot be read, are answered at once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.v1 import common_pb2, inference_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine import ports
from stepstream_server.engine.ports import ROW, ROW_FORMAT, Ints, Keep
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc import columns
from stepstream_server.rpc.columns import Rows
from stepstream_server.rpc.engine_client import EngineClient
from stepstream_server.rpc.fields import decode_duration
from stepstream_server.rpc.stream.flow_control import Flow
from stepstream_server.rpc.stream.members import FREE, Handles, Members
from stepstream_server.rpc.stream.writer import Writer, encode_detached, encode_refused
from stepstream_server.spec import ModelSpec

_MESSAGE_BYTES = 256  # of an answer beside its outputs, at most: columns of one row, tags and lengths of the fields
HandleColumn = NDArray[np.uint32]
_PACK = struct.Struct(ROW_FORMAT).pack
_FOREVER = float("inf")
_ALL = (common_pb2.OUTPUTS_UNSPECIFIED, common_pb2.OUTPUTS_ALL)


class Content(NamedTuple):
    """All of a block but its rows' handles, numbers and lengths."""

    inputs: Sequence[bytes]  # one per declared input: little-endian [sum of lengths, *shape]
    keep: Keep
    deadline: float  # monotonic seconds
    acked: Ints | None  # [n]

    def only(self, chosen: NDArray[np.bool_], lengths: Ints) -> Content:
        """That of the rows of a mask [n], of which each has its length [n] of steps."""
        steps = np.repeat(chosen, lengths)
        inputs = [np.frombuffer(data, np.uint8).reshape(len(steps), -1)[steps].tobytes() for data in self.inputs]
        return self._replace(inputs=inputs, acked=None if self.acked is None else self.acked[chosen])


def decode_content(message: inference_pb2.Block, spec: ModelSpec, rows: Rows, max_steps: int, arrival: float) -> Content:
    """Raises CallerError: rows that can be read are then refused in their order."""
    columns.check_steps("lengths", rows.steps, max_steps)
    timeout = decode_duration("timeout", message.timeout) if message.HasField("timeout") else _FOREVER
    return Content(
        inputs=columns.check_inputs(message.inputs, spec, rows.steps),
        keep=columns.decode_keep(message.outputs),
        deadline=arrival + timeout,
        acked=columns.counts_column("acked", message.acked, len(rows.handles)) if message.acked else None,
    )


def most_step_bytes(message_bytes: int) -> int:
    """What the outputs of one step may take for its answer to fit into a message."""
    return message_bytes - _MESSAGE_BYTES


def check_answer(keep: Keep, step_bytes: int, most: int) -> None:
    """Raises CallerError(BLOCK_TOO_LARGE) where the outputs of one step are more than a message can carry: never run it."""
    if step_bytes > most and keep is not Keep.NONE:
        raise CallerError(
            Reason.BLOCK_TOO_LARGE,
            f"outputs: expected answers of at most {most} bytes, one step gives {step_bytes}",
            field="outputs",
        )


class Reader:
    """The reading side of one stream."""

    def __init__(
        self,
        number: int,
        members: Members,
        settings: DoorSettings,
        handles: Handles,
        flow: Flow,
        writer: Writer,
        clock: Callable[[], float],
    ) -> None:
        self._number = number
        self._members = members
        self._settings = settings
        self._handles = handles
        self._credits, self._lookahead, self._pace = flow
        self._writer = writer
        self._clock = clock
        self._most_step_bytes = most_step_bytes(settings.max_message_bytes)

    def take(self, request: inference_pb2.StreamRequest) -> Callable[[], None] | None:
        """Takes a request. What is returned opens or attaches sessions, and is to be called when that may be done.

        Both raise CallerError for a message that names no handles to answer to, ServerFault once the engine has stopped.
        """
        kind = request.WhichOneof("message")
        if kind == "block":
            self._block(request.block)
        elif kind == "acknowledge":
            self._acknowledge(request.acknowledge)
        elif kind == "open":
            return partial(self._members.open, request.open)
        elif kind == "attach":
            return partial(self._members.attach, request.attach)
        elif kind == "reset":
            self._reset(request.reset)
        elif kind == "detach":
            self._detach(request.detach)
        else:
            raise CallerError(Reason.INVALID_ARGUMENT, "message: expected one of StreamRequest's, got none", field="message")
        return None

    def _block(self, message: inference_pb2.Block) -> None:
        arrival = self._clock()
        if self._single(message, arrival):
            return
        handles = columns.handles_column(message.handles, self._settings.max_block_steps)
        if not len(handles):
            return
        try:
            rows = columns.decode_rows(message, handles)
        except CallerError as error:
            self._refuse_unread(handles, error)
            return
        owner = self._handles.common_owner(handles)
        if owner > FREE:
            self._even_block(message, rows, self._members.engines[owner - 1], arrival)
        else:
            self._uneven_block(message, rows, arrival)

    def _single(self, message: inference_pb2.Block, arrival: float) -> bool:
        """Takes a block of one row. False, with nothing done, where anything has to be looked at or refused."""
        handle_bytes, seq_bytes, length_bytes, acked_bytes = message.handles, message.first_seqs, message.lengths, message.acked
        if len(handle_bytes) != 4 or len(seq_bytes) != 8 or len(length_bytes) not in (0, 4) or len(acked_bytes) not in (0, 8):
            return False
        handle = int.from_bytes(handle_bytes, "little")
        owner, session, generation = self._handles.find(handle)
        if owner <= FREE:
            return False
        steps = int.from_bytes(length_bytes, "little") if length_bytes else 1
        seq, acked = int.from_bytes(seq_bytes, "little"), int.from_bytes(acked_bytes, "little")
        engine, inputs = self._members.engines[owner - 1], message.inputs
        if (
            not 0 < steps <= self._settings.max_block_steps
            or (seq | acked) >> columns.SEQ_BITS
            or not engine.takes(inputs, steps)
            or message.outputs not in _ALL
            or engine.step_bytes > self._most_step_bytes
            or message.HasField("timeout")
        ):
            return False
        row = _PACK(self._number, generation, seq, handle, Keep.ALL, 0, 0, 0, 0, session, steps, acked, arrival, _FOREVER)
        self._credits.take(steps * engine.step_credits)
        self._pace.take(steps)
        self._handles.expect_one(handle, steps)
        engine.block(self._number, row, inputs)
        self._lookahead.sent(engine)
        return True

    def _even_block(self, message: inference_pb2.Block, rows: Rows, engine: EngineClient, arrival: float) -> None:
        """Every row stands for a session of one model: the hot path."""
        try:
            content = self._decode(message, engine, rows, arrival)
        except CallerError as error:
            self._refuse(engine, rows, error)
        else:
            self._take(engine, rows, content, arrival)

    def _uneven_block(self, message: inference_pb2.Block, rows: Rows, arrival: float) -> None:
        """Rows that stand for no session are refused; the others go on if they are of one model."""
        owners = self._handles.owners(rows.handles)
        known = owners > FREE
        self._refuse_unknown(rows.only(~known))
        engines = list(self._by_engine(owners))
        if len(engines) > 1:
            mixed = _mixed_models([engine for engine, _ in engines])
            for engine, positions in engines:
                self._refuse(engine, rows.only(positions), mixed)
        elif engines:
            ((engine, _),) = engines
            try:
                content = self._decode(message, engine, rows, arrival).only(known, rows.lengths)
            except CallerError as error:
                self._refuse(engine, rows.only(known), error)
            else:
                self._take(engine, rows.only(known), content, arrival)

    def _decode(self, message: inference_pb2.Block, engine: EngineClient, rows: Rows, arrival: float) -> Content:
        """Raises CallerError."""
        content = decode_content(message, engine.spec, rows, self._settings.max_block_steps, arrival)
        check_answer(content.keep, engine.step_bytes, self._most_step_bytes)
        return content

    def _take(self, engine: EngineClient, rows: Rows, content: Content, arrival: float) -> None:
        common = _PACK(self._number, 0, 0, 0, content.keep, 0, 0, 0, 0, 0, 0, 0, arrival, content.deadline)
        packed = np.frombuffer(bytearray(common) * len(rows.handles), ROW)
        packed["session"], packed["generation"] = self._expect(engine, rows)
        self._pace.take(rows.steps)
        packed["handle"], packed["first"], packed["length"] = rows.handles, rows.first_seqs, rows.lengths
        if content.acked is not None:
            packed["acked"] = content.acked
        engine.block(self._number, packed.tobytes(), content.inputs)
        self._lookahead.sent(engine)

    def _submit(self, engine: EngineClient, command: ports.Command) -> None:
        engine.submit(command)
        self._lookahead.sent(engine)

    def _refuse(self, engine: EngineClient, rows: Rows, error: StepStreamError) -> None:
        """Rows of sessions, to be refused in their order."""
        sessions, generations = self._expect(engine, rows)
        handles, first_seqs, lengths, _ = rows
        refusal = ports.Refuse(self._number, sessions, generations, handles, first_seqs, lengths, error.reason, error.message)
        self._submit(engine, refusal)

    def _reset(self, message: inference_pb2.Reset) -> None:
        arrival = self._clock()
        handles = columns.handles_column(message.handles, self._settings.max_block_steps)
        if not len(handles):
            return
        try:
            seqs = columns.seqs_column("seqs", message.seqs, len(handles))
        except CallerError as error:
            self._refuse_unread(handles, error)
            return
        rows = Rows(handles, seqs, np.ones(len(handles), np.int64), len(handles))
        owners = self._handles.owners(handles)
        self._refuse_unknown(rows.only(owners <= FREE))
        for engine, positions in self._by_engine(owners):
            mine = rows.only(positions)
            sessions, generations = self._expect(engine, mine)
            self._pace.take(mine.steps)
            self._submit(engine, ports.Reset(self._number, sessions, generations, mine.handles, mine.first_seqs, arrival))

    def _acknowledge(self, message: inference_pb2.Acknowledge) -> None:
        """Has no answer. What does not stand for a session any more needs none."""
        handles = columns.handles_column(message.handles, self._settings.max_block_steps)
        counts = columns.counts_column("counts", message.counts, len(handles))
        for engine, rows in self._by_engine(self._handles.owners(handles)):
            sessions, generations = self._handles.sessions(handles[rows])
            self._submit(engine, ports.Acknowledge(self._number, sessions, generations, handles[rows], counts[rows]))

    def _detach(self, message: inference_pb2.Detach) -> None:
        handles = np.unique(columns.handles_column(message.handles, self._settings.max_block_steps))
        owners = self._handles.owners(handles)
        unknown = handles[owners <= FREE]
        if len(unknown):
            self._credits.take(len(unknown))
            self._writer.control(encode_detached(unknown.tolist(), None, _unknown_handles(unknown)), len(unknown))
        for engine, positions in self._by_engine(owners):
            mine, ones = handles[positions], np.ones(len(positions), np.int64)
            sessions, generations = self._expect(engine, Rows(mine, ones, ones, len(positions)))
            self._handles.leave(mine)
            self._submit(engine, ports.Detach(self._number, sessions, generations, mine, message.close))

    def _by_engine(self, owners: Ints) -> Iterator[tuple[EngineClient, Ints]]:
        """Positions of the rows of each model."""
        for owner, engine in enumerate(self._members.engines, 1):
            positions = np.flatnonzero(owners == owner)
            if len(positions):
                yield engine, positions

    def _expect(self, engine: EngineClient, rows: Rows) -> tuple[Ints, Ints]:
        """Session index and generation of rows whose outcomes will arrive."""
        self._credits.take(rows.steps * engine.step_credits)
        self._handles.expect(rows.handles, rows.lengths)
        return self._handles.sessions(rows.handles)

    def _refuse_unknown(self, rows: Rows) -> None:
        if len(rows.handles):
            self._answer(rows.handles, rows.first_seqs, rows.lengths, _unknown_handles(rows.handles))

    def _refuse_unread(self, handles: HandleColumn, error: StepStreamError) -> None:
        """Rows of which nothing but the handle is known."""
        nothing = np.zeros(len(handles), np.int64)
        self._answer(handles, nothing, nothing, error)

    def _answer(self, handles: HandleColumn, first_seqs: Ints, lengths: Ints, error: StepStreamError) -> None:
        """Refuses rows that no engine hears of."""
        self._credits.take(len(handles))
        self._writer.errors(None, encode_refused(handles, first_seqs, lengths, error), len(handles))


def _mixed_models(engines: list[EngineClient]) -> StepStreamError:
    names = ", ".join(f"{engine.spec.name} {engine.spec.version}" for engine in engines)
    return CallerError(Reason.MIXED_MODELS, f"handles: a block is for one model, got sessions of {names}", field="handles")


def _unknown_handles(handles: HandleColumn) -> StepStreamError:
    shown = ", ".join(map(str, handles[:5].tolist())) + (", ..." if len(handles) > 5 else "")
    return CallerError(Reason.HANDLE_UNKNOWN, f"handles: no session on this stream has {shown}", field="handles")
