"""The arrays of one-step launches, bound to the graph once per number of rows. Knows onnxruntime's bindings, and no slots.

A launch of one step is what most sessions wait for. Handing arrays to onnxruntime anew each time costs it 4 us, and as much
again to look at each of them apart; here they lie side by side in memory that all numbers of rows share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from stepstream_server.engine.ports import Tensor
from stepstream_server.programs.layout import ALIGNMENT, Rows, state_rows, zeros
from stepstream_server.programs.runtime import LaunchFailed, Sessions, first_line
from stepstream_server.spec import DType, ModelSpec, TensorSpec

Floats = NDArray[np.float32]


class StepBatch:
    """Arrays that one step of a number of sessions reads and writes, and their binding. The graph may see more rows: those are
    sessions that begin, with zeros as inputs."""

    def __init__(
        self,
        session: ort.InferenceSession,
        binding: ort.IOBinding,
        rows: int,
        states: Sequence[tuple[Rows, Rows]],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        initial: Sequence[Rows],
        floats: _Places,
    ) -> None:
        self.session = session
        self._binding = binding
        self.before = [before[:rows] for before, _ in states]  # for each dtype [rows, numbers]
        self.after = [after[:rows] for _, after in states]
        self.inputs = [value[:rows] for value in inputs]  # [rows, 1, *shape]
        self.outputs = [value[:rows] for value in outputs]  # [rows, 1, *shape]
        self.numbers = floats.taken  # every float32 of these arrays, of the rows beyond and of the gaps
        self._gaps = floats.gaps
        beyond = [(before[rows:], row) for (before, _), row in zip(states, initial, strict=True)]
        beyond += [(value[rows:], np.zeros((), value.dtype)) for value in inputs]
        self._beyond = [(place, value) for place, value in beyond if len(place)]

    def load(self, inputs: Sequence[Tensor]) -> None:
        """Takes a launch's inputs. `before` is filled by whoever has the states."""
        for place, value in zip(self.inputs, inputs, strict=True):
            place[...] = value
        for place, value in self._beyond:
            place[...] = value

    def run(self) -> None:
        """Computes `after` and `outputs`. Raises LaunchFailed."""
        try:
            self.session.run_with_iobinding(self._binding)
        except Exception as error:  # the runtime's exceptions have no common type
            raise LaunchFailed(first_line(error)) from None

    def tidy(self) -> None:
        """Clears the gaps among `numbers`: batches of other numbers of rows had arrays there."""
        for gap in self._gaps:
            gap[...] = 0

    def go_on(self) -> None:
        """The next step begins where this one has ended."""
        for before, after in zip(self.before, self.after, strict=True):
            before[...] = after


class StepBatches:
    """A StepBatch for every number of rows, made when it is first asked for: at most `max_batch` of them, of a few KB each."""

    def __init__(self, sessions: Sessions, spec: ModelSpec, multiple: int, max_batch: int) -> None:
        """multiple: of so many rows are all batches that the graph sees."""
        self._sessions = sessions
        self._spec = spec
        self._multiple = multiple
        self._states = state_rows(spec.states)
        self._initial = [part.initial for part in self._states]
        most = self.rows_seen(max_batch)
        self._memory = {
            dtype: zeros((most * sum(widths) + ALIGNMENT * len(widths),), dtype) for dtype, widths in self._widths().items()
        }
        self._batches: dict[int, StepBatch] = {}

    def rows_seen(self, rows: int) -> int:
        """Rows that the graph sees of a batch."""
        return -(-rows // self._multiple) * self._multiple

    def of(self, rows: int) -> StepBatch:
        """The batch of that many rows. Its arrays are those of the batch asked for before, so finish with that one first."""
        batch = self._batches.get(rows)
        if batch is None:
            batch = self._batches[rows] = self._bind(rows)
        return batch

    def _widths(self) -> dict[DType, list[int]]:
        """Numbers of a row of each array, by dtype."""
        widths: dict[DType, list[int]] = {"float32": []}
        for tensor in (*self._spec.inputs, *self._spec.outputs):
            widths.setdefault(tensor.dtype, []).append(tensor.elements)
        for part in self._states:
            widths.setdefault(part.dtype, []).extend([part.elements] * 2)  # before and after
        return widths

    def _bind(self, rows: int) -> StepBatch:
        """Lays the arrays out in the shared memory, and binds them."""
        seen = self.rows_seen(rows)
        session, places = self._sessions.of(seen), {dtype: _Places(memory) for dtype, memory in self._memory.items()}
        binding = session.io_binding()

        def bind(name: str, dtype: DType, shape: tuple[int, ...]) -> Tensor:
            array = places[dtype].take((seen, *shape))
            put = binding.bind_input if name.startswith(("state.", "input.")) else binding.bind_output
            put(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            return array

        def tensor(kind: str, declared: TensorSpec) -> Tensor:
            return bind(f"{kind}.{declared.name}", declared.dtype, (1, *declared.shape))

        states = [
            (
                bind(f"state.{part.dtype}", part.dtype, (part.elements,)),
                bind(f"next_state.{part.dtype}", part.dtype, (part.elements,)),
            )
            for part in self._states
        ]
        inputs = [tensor("input", declared) for declared in self._spec.inputs]
        outputs = [tensor("output", declared) for declared in self._spec.outputs]
        return StepBatch(session, binding, rows, states, inputs, outputs, self._initial, places["float32"])


class _Places:
    """Arrays one after the other from the start of a piece of memory, each where the next multiple of ALIGNMENT bytes is."""

    def __init__(self, memory: Tensor) -> None:
        self._memory = memory
        self._step = ALIGNMENT // memory.itemsize
        self._end = 0
        self.gaps: list[Tensor] = []  # what lies between the arrays

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """The next array."""
        first = -(-self._end // self._step) * self._step
        self.gaps.append(self._memory[self._end : first])
        self._end = first + math.prod(shape)
        return self._memory[first : self._end].reshape(shape)

    @property
    def taken(self) -> Tensor:
        """All of them as one, with what lies between them."""
        return self._memory[: self._end]
