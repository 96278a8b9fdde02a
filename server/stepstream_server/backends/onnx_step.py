"""The arrays of one-step launches, bound to the graph once per number of rows. Knows onnxruntime's bindings, and no slots.

A launch of one step is what most sessions wait for. Handing arrays to onnxruntime anew each time costs it 4 us, and as much
again to look at each of them apart; here they lie side by side in memory that all numbers of rows share.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from stepstream_server.backends.threads import WIDE_ROWS
from stepstream_server.engine.ports import Tensor
from stepstream_server.spec import ModelSpec, TensorSpec

Floats = NDArray[np.float32]


class Sessions(NamedTuple):
    """One graph on few threads and on many; the same session twice where that makes no difference."""

    few: ort.InferenceSession
    many: ort.InferenceSession  # for batches that are worth it

    def of(self, rows: int) -> ort.InferenceSession:
        """The one for a batch of so many rows."""
        return self.many if rows >= WIDE_ROWS else self.few


class StepBatch:
    """What one step of a number of sessions reads and writes, and its binding. The graph may see more rows, which are zeros."""

    def __init__(
        self,
        session: ort.InferenceSession,
        binding: ort.IOBinding,
        states: tuple[Floats, Floats],
        inputs: tuple[Tensor, ...],
        outputs: tuple[Tensor, ...],
        rows: int,
        numbers: Floats,
    ) -> None:
        self.session = session
        self.binding = binding
        self.before, self.after = (state[:rows] for state in states)  # [rows, state_elements]
        self.inputs = tuple(value[:rows] for value in inputs)  # [rows, 1, *shape]
        self.outputs = tuple(value[:rows] for value in outputs)  # [rows, 1, width]
        self.numbers = numbers  # every float32 of these arrays, and of the rows beyond
        self._beyond = [value[rows:] for value in (states[0], *inputs) if len(value) > rows]

    def load(self, inputs: tuple[Tensor, ...]) -> None:
        """Takes a launch's inputs. `before` is filled by whoever has the states."""
        for place, value in zip(self.inputs, inputs, strict=True):
            place[...] = value
        for place in self._beyond:
            place[...] = 0


class StepBatches:
    """A StepBatch for every number of rows, made when it is first asked for: at most `max_batch` of them, of a few KB each."""

    def __init__(self, sessions: Sessions, spec: ModelSpec, least_rows: int, max_batch: int) -> None:
        self._sessions = sessions
        self._spec = spec
        self._least_rows = least_rows
        tensors = [tensor for tensor in (*spec.inputs, *spec.outputs) if tensor.dtype == "float32"]
        width = 2 * spec.state_elements + sum(tensor.elements for tensor in tensors)
        self._memory = np.zeros(max(max_batch, least_rows) * width, np.float32)
        self._batches: dict[int, StepBatch] = {}

    def of(self, rows: int) -> StepBatch:
        """The batch of that many rows. Its arrays are those of the batch asked for before, so finish with that one first."""
        batch = self._batches.get(rows)
        if batch is None:
            batch = self._batches[rows] = self._bind(rows)
        return batch

    def _bind(self, rows: int) -> StepBatch:
        """Lays the arrays out in the shared memory, and binds them."""
        session, places, seen = self._sessions.of(rows), _Places(self._memory), max(rows, self._least_rows)
        binding = session.io_binding()

        def bind(name: str, array: Tensor) -> Tensor:
            put = binding.bind_input if name == "state" or name.startswith("input.") else binding.bind_output
            put(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            return array

        def tensor(kind: str, declared: TensorSpec) -> Tensor:
            shape = (seen, 1, *declared.shape)
            array = places.take(shape) if declared.dtype == "float32" else np.zeros(shape, np.int64)
            return bind(f"{kind}.{declared.name}", array)

        state = (seen, self._spec.state_elements)
        states = bind("state", places.take(state)), bind("next_state", places.take(state))
        inputs = tuple(tensor("input", declared) for declared in self._spec.inputs)
        outputs = tuple(tensor("output", declared) for declared in self._spec.outputs)
        return StepBatch(session, binding, states, inputs, outputs, rows, places.taken)


class _Places:
    """Arrays one after the other from the start of a piece of memory."""

    def __init__(self, memory: Floats) -> None:
        self._memory = memory
        self._end = 0

    def take(self, shape: tuple[int, ...]) -> Floats:
        """The next array."""
        first, self._end = self._end, self._end + math.prod(shape)
        return self._memory[first : self._end].reshape(shape)

    @property
    def taken(self) -> Floats:
        """All of them as one."""
        return self._memory[: self._end]
