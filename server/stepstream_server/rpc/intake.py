"""What a stream reads becomes commands of the engine port; what cannot become one is answered at once, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine import ports
from stepstream_server.engine.ports import Ints, Keep, Tensor
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc import columns, convert
from stepstream_server.rpc.columns import BlockColumns
from stepstream_server.rpc.credits import Credits
from stepstream_server.rpc.door import ModelDoor
from stepstream_server.rpc.handles import Handles
from stepstream_server.rpc.membership import Membership
from stepstream_server.rpc.outgoing import Outgoing
from stepstream_server.spec import ModelSpec

Tags = NDArray[np.uint32]
_FOREVER = float("inf")


class Intake:
    """The reading side of one stream."""

    def __init__(
        self,
        number: int,
        membership: Membership,
        settings: DoorSettings,
        handles: Handles,
        credits: Credits,
        outgoing: Outgoing,
        clock: Callable[[], float],
    ) -> None:
        self._number = number
        self._membership = membership
        self._doors = membership.doors
        self._settings = settings
        self._handles = handles
        self._credits = credits
        self._outgoing = outgoing
        self._clock = clock

    def take(self, request: inference_pb2.StreamRequest) -> None:
        """Raises CallerError for a message that names no handles to answer to, ServerFault once the engine has stopped."""
        kind = request.WhichOneof("message")
        if kind == "block":
            self._block(request.block)
        elif kind == "acknowledge":
            self._acknowledge(request.acknowledge)
        elif kind == "open":
            self._membership.open(request.open)
        elif kind == "attach":
            self._membership.attach(request.attach)
        elif kind == "reset":
            self._reset(request.reset)
        elif kind == "detach":
            self._detach(request.detach)
        else:
            raise CallerError(Reason.INVALID_ARGUMENT, "message: expected one of StreamRequest's, got none", field="message")

    def _block(self, message: inference_pb2.Block) -> None:
        arrival = self._clock()
        handles = columns.handles_column(message.handles, self._settings.max_block_steps)
        if not len(handles):
            return
        try:
            read = columns.decode_columns(message, len(handles), self._settings.max_block_steps)
        except CallerError as error:
            nothing = np.zeros(len(handles), np.int64)
            self._refuse(handles, nothing, nothing, error)
            return
        owner = self._handles.common_owner(handles)
        if owner >= 0:
            self._even_block(message, handles, read, self._doors[owner], arrival)
        else:
            self._uneven_block(message, handles, read, self._handles.owners(handles), arrival)

    def _even_block(
        self, message: inference_pb2.Block, handles: Tags, read: BlockColumns, door: ModelDoor, arrival: float
    ) -> None:
        """Every row stands for a session of one model: the hot path."""
        try:
            inputs, keep, deadline = _decode_rest(message, door.spec, read.steps, arrival)
        except CallerError as error:
            self._refuse(handles, read.first_seqs, read.lengths, error)
        else:
            self._submit(door, handles, read, inputs, keep, arrival, deadline)

    def _uneven_block(
        self, message: inference_pb2.Block, handles: Tags, read: BlockColumns, owners: Ints, arrival: float
    ) -> None:
        """Rows that stand for no session are refused; the others go on if they are of one model."""
        known = owners >= 0
        self._refuse_unknown(handles[~known], read.first_seqs[~known], read.lengths[~known])
        if not known.any():
            return
        try:
            door = self._common_door(owners[known])
            inputs, keep, deadline = _decode_rest(message, door.spec, read.steps, arrival)
        except CallerError as error:
            self._refuse(handles[known], read.first_seqs[known], read.lengths[known], error)
        else:
            read, inputs = columns.select(read, inputs, known)
            self._submit(door, handles[known], read, inputs, keep, arrival, deadline)

    def _submit(
        self,
        door: ModelDoor,
        handles: Tags,
        read: BlockColumns,
        inputs: tuple[Tensor, ...],
        keep: Keep,
        arrival: float,
        deadline: float,
    ) -> None:
        sessions, generations = self._handles.sessions(handles)
        self._expect(handles, read.lengths, read.steps)
        door.submit(
            ports.Block(
                self._number,
                sessions,
                generations,
                handles,
                read.first_seqs,
                read.lengths,
                inputs,
                keep,
                arrival,
                deadline,
                read.acked,
            )
        )

    def _common_door(self, owners: Ints) -> ModelDoor:
        """Raises CallerError(MIXED_MODELS)."""
        doors: list[ModelDoor] = [self._doors[owner] for owner in np.unique(owners).tolist()]
        if len(doors) > 1:
            names = ", ".join(f"{door.spec.name} {door.spec.version}" for door in doors)
            raise CallerError(Reason.MIXED_MODELS, f"handles: a block is for one model, got sessions of {names}", field="handles")
        return doors[0]

    def _reset(self, message: inference_pb2.Reset) -> None:
        arrival = self._clock()
        handles = columns.handles_column(message.handles, self._settings.max_block_steps)
        ones = np.ones(len(handles), np.int64)
        try:
            seqs = columns.seqs_column("seqs", message.seqs, len(handles))
        except CallerError as error:
            self._refuse(handles, 0 * ones, 0 * ones, error)
            return
        owners = self._handles.owners(handles)
        unknown = owners < 0
        self._refuse_unknown(handles[unknown], seqs[unknown], ones[unknown])
        for door, rows in self._by_door(owners):
            sessions, generations = self._handles.sessions(handles[rows])
            self._expect(handles[rows], ones[rows], len(rows))
            door.submit(ports.Reset(self._number, sessions, generations, handles[rows], seqs[rows], arrival))

    def _acknowledge(self, message: inference_pb2.Acknowledge) -> None:
        """Has no answer. What does not stand for a session any more needs none."""
        handles = columns.handles_column(message.handles, self._settings.max_block_steps)
        counts = columns.counts_column("counts", message.counts, len(handles))
        for door, rows in self._by_door(self._handles.owners(handles)):
            sessions, generations = self._handles.sessions(handles[rows])
            door.submit(ports.Acknowledge(self._number, sessions, generations, handles[rows], counts[rows]))

    def _detach(self, message: inference_pb2.Detach) -> None:
        handles = np.unique(columns.handles_column(message.handles, self._settings.max_block_steps))
        owners = self._handles.owners(handles)
        unknown = handles[owners < 0]
        if len(unknown):
            self._credits.take(len(unknown))
            self._outgoing.control(convert.encode_detached(unknown.tolist(), None, _unknown_handles(unknown)), len(unknown))
        for door, rows in self._by_door(owners):
            sessions, generations = self._handles.sessions(handles[rows])
            self._expect(handles[rows], np.ones(len(rows), np.int64), len(rows))
            self._handles.leave(handles[rows])
            door.submit(ports.Detach(self._number, sessions, generations, handles[rows], message.close))

    def _by_door(self, owners: Ints) -> Iterator[tuple[ModelDoor, Ints]]:
        """Rows of each model."""
        for owner, door in enumerate(self._doors):
            rows = np.flatnonzero(owners == owner)
            if len(rows):
                yield door, rows

    def _expect(self, handles: Tags, lengths: Ints, steps: int) -> None:
        self._credits.take(steps)
        self._handles.expect(handles, lengths)

    def _refuse_unknown(self, handles: Tags, first_seqs: Ints, lengths: Ints) -> None:
        if len(handles):
            self._refuse(handles, first_seqs, lengths, _unknown_handles(handles))

    def _refuse(self, handles: Tags, first_seqs: Ints, lengths: Ints, error: StepStreamError) -> None:
        """Answers rows that never reach an engine."""
        self._credits.take(len(handles))
        self._outgoing.errors(None, convert.encode_refused(handles, first_seqs, lengths, error), len(handles))


def _decode_rest(
    message: inference_pb2.Block, spec: ModelSpec, steps: int, arrival: float
) -> tuple[tuple[Tensor, ...], Keep, float]:
    """What of a block depends on its model: inputs, what to keep, and the deadline. Raises CallerError."""
    inputs = columns.decode_inputs(message.inputs, spec, steps)
    timeout = convert.decode_duration("timeout", message.timeout) if message.HasField("timeout") else _FOREVER
    return inputs, columns.decode_keep(message.outputs), arrival + timeout


def _unknown_handles(handles: Tags) -> StepStreamError:
    shown = ", ".join(map(str, handles[:5].tolist())) + (", ..." if len(handles) > 5 else "")
    return CallerError(Reason.HANDLE_UNKNOWN, f"handles: no session on this stream has {shown}", field="handles")
