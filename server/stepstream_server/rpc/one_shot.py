"""One-shot calls: steps of sessions addressed by id, asked of engines under a number, and their outcomes.

One `Caller` stands for one call of the contract, or for a stream of requests. It holds no session and promises no order; what
is still queued when it leaves is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Durables, Keep, RowErrors, Tensor
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc.coalescing import Steps
from stepstream_server.rpc.columns import WIRE_TYPES
from stepstream_server.rpc.deliveries import Piece
from stepstream_server.rpc.engine_client import EngineClient, decode_row_error
from stepstream_server.spec import DType, ModelSpec, TensorSpec

_EXACT = 2.0**53  # beyond it a double skips integers
_WHOLE: dict[DType, tuple[str, float, float]] = {  # what is expected of each dtype, the lowest and the highest number
    "int64": ("whole numbers below 2^53", 1 - _EXACT, _EXACT - 1),
    "int32": ("whole numbers from -2^31 up to 2^31 - 1", -(2**31), 2**31 - 1),
    "bool": ("0 or 1", 0, 1),
}
_NUMBER_BYTES = 8  # of one number on the wire
_MESSAGE_BYTES = 1024  # of an answer beside its numbers, generously: names of outputs, counts
_HANDLES = 1 << 32  # as many as there are


def decode_values(inputs: Mapping[str, inference_pb2.Values], spec: ModelSpec) -> tuple[int, tuple[Tensor, ...]]:
    """Steps, and one tensor [steps, *shape] per declared input. Raises CallerError that names the input."""
    declared = [each.name for each in spec.inputs]
    for name in inputs:
        if name not in declared:
            raise _wrong(name, f"expected only {', '.join(declared)}, got an input called {name!r}")
    tensors = tuple(_decode_input(inputs, each) for each in spec.inputs)
    steps = len(tensors[0])
    for each, tensor in zip(spec.inputs, tensors, strict=True):
        if len(tensor) != steps:
            raise _wrong(each.name, f"expected {steps} steps as in {declared[0]}, got {len(tensor)}")
    return steps, tensors


def check_answer(spec: ModelSpec, steps: int, keep: Keep, most: int) -> None:
    """Raises CallerError(BLOCK_TOO_LARGE) where the answer would be more than a message can carry: never run the steps."""
    kept = {Keep.ALL: steps, Keep.LAST: 1, Keep.NONE: 0}[keep]
    expected = kept * sum(output.elements for output in spec.outputs) * _NUMBER_BYTES + _MESSAGE_BYTES
    if expected > most:
        message = f"outputs: expected an answer of at most {most} bytes, {kept} steps' would take {expected}"
        raise CallerError(Reason.BLOCK_TOO_LARGE, message, field="outputs")


def encode_values(outputs: Sequence[bytes], spec: ModelSpec) -> dict[str, inference_pb2.Values]:
    """outputs: little-endian [steps kept, *shape] each."""
    return {
        each.name: inference_pb2.Values(numbers=np.frombuffer(data, WIRE_TYPES[each.dtype]).tolist())
        for each, data in zip(spec.outputs, outputs, strict=True)
    }


def _decode_input(inputs: Mapping[str, inference_pb2.Values], spec: TensorSpec) -> Tensor:
    if spec.name not in inputs:
        raise _wrong(spec.name, f"missing; expected {spec.elements} numbers per step")
    numbers = np.array(inputs[spec.name].numbers, np.float64)
    if not len(numbers) or len(numbers) % spec.elements:
        raise _wrong(spec.name, f"expected a multiple of {spec.elements} numbers, one step or more, got {len(numbers)}")
    shaped = numbers.reshape(-1, *spec.shape)
    return _floats(shaped) if spec.dtype == "float32" else _integers(spec, shaped)


def _floats(numbers: NDArray[np.float64]) -> Tensor:
    with np.errstate(over="ignore"):  # becomes infinite, which the engine refuses by name
        return numbers.astype(np.float32)


def _integers(spec: TensorSpec, numbers: NDArray[np.float64]) -> Tensor:
    """Whole numbers of the dtype, or truth values."""
    meaning, lowest, highest = _WHOLE[spec.dtype]
    if not ((numbers == np.floor(numbers)) & (numbers >= lowest) & (numbers <= highest)).all():
        raise _wrong(spec.name, f"expected {meaning}")
    return numbers.astype(spec.dtype)


def _wrong(name: str, problem: str) -> CallerError:
    field = f"inputs[{name}]"
    return CallerError(Reason.INVALID_ARGUMENT, f"{field}: {problem}", field=field)


class Outcome:
    """What became of one row: its outputs, step after step, or why it was refused or failed."""

    __slots__ = ("durable_seq", "epoch", "error", "first_seq", "left", "outputs")

    def __init__(self, steps: int) -> None:
        self.left = steps  # without an outcome
        self.first_seq = -1  # number of the first step applied; -1: none was
        self.outputs: list[tuple[bytes, ...]] = []  # of its parts in order: one per declared output, little-endian
        self.error: StepStreamError | None = None
        self.durable_seq = 0  # of a durable session: steps below it are in the store
        self.epoch = 0  # likewise

    def joined(self) -> tuple[bytes, ...]:
        """Outputs of all its steps: one per declared output."""
        parts = self.outputs
        return parts[0] if len(parts) == 1 else tuple(b"".join(of_output) for of_output in zip(*parts, strict=True))


class Asked:
    """One request: `done` is called when all of its rows have their outcomes."""

    __slots__ = ("_left", "outcomes")

    def __init__(self, rows: int, steps: int) -> None:
        """steps: of each row."""
        self.outcomes = [Outcome(steps) for _ in range(rows)]
        self._left = rows

    def done(self) -> None:
        """All outcomes are there. Must not raise."""

    def answered(self, row: int, first_seq: int, steps: int, outputs: tuple[bytes, ...]) -> bool:
        """Whether the row has all of its outcomes now."""
        outcome = self.outcomes[row]
        if not outcome.outputs:
            outcome.first_seq = first_seq
        outcome.outputs.append(outputs)
        return self._count(outcome, steps)

    def refused(self, row: int, steps: int, error: StepStreamError) -> bool:
        """Whether the row has all of its outcomes now that these steps were refused or failed."""
        outcome = self.outcomes[row]
        outcome.error = outcome.error or error
        return self._count(outcome, steps)

    def _count(self, outcome: Outcome, steps: int) -> bool:
        outcome.left -= steps
        if outcome.left > 0:
            return False
        self._left -= 1
        if not self._left:
            self.done()
        return True


class Caller:
    """On the event loop's thread. A `StepListener` of every model that it asks; its handles count the rows it has asked for.

    An outcome may make its request leave, so that nothing is known of the rows behind it.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._rows: dict[EngineClient, dict[int, tuple[Asked, int]]] = {}  # by handle: rows without all of their outcomes
        self._next_handle = 0

    def ask(self, engine: EngineClient, steps: Steps, asked: Asked) -> None:
        """Asks for steps under this caller's number. Raises StepStreamError."""
        if engine not in self._rows:
            engine.listen(self.number, self)
            self._rows[engine] = {}
        rows, handle = len(steps.ids), self._next_handle
        if handle + rows > _HANDLES:
            handle = 0  # those requests have been answered long ago
        engine.call(self.number, handle, steps)
        self._next_handle = handle + rows
        waiting = self._rows[engine]
        for row in range(rows):
            waiting[handle + row] = (asked, row)

    def leave(self) -> None:
        """Nothing more is wanted: what is still queued is dropped."""
        left, self._rows = self._rows, {}
        for engine, waiting in left.items():
            if waiting:
                engine.hang_up(self.number)
            else:
                engine.forget(self.number)

    def answered(self, engine: EngineClient, piece: Piece) -> None:
        turn, start = piece.turn, piece.kept_first
        sizes = turn.encoding.step_bytes
        for handle, first_seq, length, kept in turn.rows()[piece.first : piece.last]:
            waiting = self._rows.get(engine)
            if waiting is None:
                return
            end = start + kept
            outputs = tuple([data[size * start : size * end] for data, size in zip(turn.outputs, sizes, strict=True)])
            start = end
            asked, row = waiting[handle]
            if asked.answered(row, first_seq, length, outputs):
                del waiting[handle]

    def refused(self, engine: EngineClient, errors: RowErrors, row: int) -> None:
        waiting = self._rows.get(engine)
        if waiting is None:
            return
        handle = errors.handles[row]
        asked, place = waiting[handle]
        if asked.refused(place, errors.lengths[row], decode_row_error(errors, row)):
            del waiting[handle]

    def durable(self, engine: EngineClient, durables: Durables, row: int) -> None:
        if (waiting := self._rows.get(engine, {}).get(durables.handles[row])) is not None:
            asked, place = waiting
            asked.outcomes[place].durable_seq, asked.outcomes[place].epoch = durables.counts[row], durables.epochs[row]

    def failed(self, engine: EngineClient, error: StepStreamError) -> None:
        for asked, row in self._rows.pop(engine, {}).values():
            asked.refused(row, asked.outcomes[row].left, error)


class _Awaited(Asked):
    """A request that somebody waits for."""

    __slots__ = ("answered_all",)

    def __init__(self, rows: int, steps: int) -> None:
        super().__init__(rows, steps)
        self.answered_all: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(self) -> None:
        if not self.answered_all.done():  # else its caller has left
            self.answered_all.set_result(None)


async def complete(engine: EngineClient, number: int, steps: Steps) -> list[Outcome]:
    """Asks by a caller of its own, under a number that no other has, and waits for the outcomes of all rows.

    Raises StepStreamError if it cannot be asked.
    """
    caller, asked = Caller(number), _Awaited(len(steps.ids), steps.length)
    try:
        caller.ask(engine, steps, asked)
        await asked.answered_all
        return asked.outcomes
    finally:
        caller.leave()
