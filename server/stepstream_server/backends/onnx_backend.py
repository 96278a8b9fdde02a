"""The CPU backend: batches computed by ONNX Runtime, states in a numpy pool. Knows nothing of sessions, queues or bundles.

A launch gathers the slots' states with numpy, runs the graph, checks it, and scatters: outside the graph that costs a few
microseconds. Everything is done at `launch`; `collect` hands the result over. How a model's graph is to be computed stands in its
`Kernel`, which `onnx_kernel` makes of a cell or of a program.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort
import structlog
from numpy.typing import NDArray

from stepstream_server.backends.numerics import instruction_set
from stepstream_server.backends.onnx_kernel import Kernel, cell_kernel, program_kernel
from stepstream_server.backends.onnx_step import StepBatch, StepBatches
from stepstream_server.backends.promise import check_promise
from stepstream_server.backends.state_pool import StatePool
from stepstream_server.config import BackendSettings
from stepstream_server.cores import WIDE_ROWS
from stepstream_server.engine.ports import Computed, Ints, Tensor
from stepstream_server.errors import Reason, ServerFault
from stepstream_server.programs.layout import feeds, results
from stepstream_server.programs.runtime import LaunchFailed, launch
from stepstream_server.spec import PLAIN, ModelSpec, Program

_SMALL = 8192  # numbers up to which BLAS's product is the quickest look at them; beyond 10,000 it takes threads of its own
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_TELL_SECONDS = 1.0  # between two lines of the log about failing steps

log = structlog.get_logger(__name__)

Mask = NDArray[np.bool_]


class _Failures:
    """Logs at which steps a model raises errors, seldom: callers can bring as many about as they like."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._steps = 0  # that have not been told
        self._told_at = -_TELL_SECONDS

    def tell(self, error: str) -> None:
        """One more has failed; error: what the runtime said."""
        self._steps += 1
        now = time.monotonic()
        if now - self._told_at >= _TELL_SECONDS:
            log.warning("model_failed", model=self._spec.name, version=self._spec.version, error=error, steps=self._steps)
            self._steps, self._told_at = 0, now


class OnnxBackend:
    """Implements `engine.ports.Backend`."""

    def __init__(self, spec: ModelSpec, kernel: Kernel, slots: int, max_batch: int) -> None:
        self._spec = spec
        self._kernel = kernel
        self._pool = StatePool(spec.states, slots)
        self._feeds, self._results = feeds(spec), results(spec)
        self._failures = _Failures(spec)
        self._max_batch = min(max_batch, kernel.max_batch)
        self._multiple = max(1, kernel.multiple)
        self._steps = StepBatches(kernel.sessions, spec, self._multiple, min(self._max_batch, 2 * kernel.slice_rows))

    @property
    def slots(self) -> int:
        """Rows of the state pool."""
        return len(self._pool)

    @property
    def state_bytes(self) -> int:
        """Bytes of one slot."""
        return self._spec.state_bytes

    @property
    def max_batch(self) -> int:
        """Rows that one launch may have."""
        return self._max_batch

    @property
    def depth(self) -> int:
        """Launches under way at once: `launch` does all the work."""
        return 1

    @property
    def batching(self) -> int:
        """Launches compute a multiple of so many rows; 0: one row per launch."""
        return self._kernel.multiple

    @property
    def numerics(self) -> str:
        """Names what bits of outputs depend on beside the model; a program's also on the multiple of rows of its launches."""
        rows = f", rows by {self._kernel.multiple}" if isinstance(self._spec.computation, Program) else ""
        return f"onnxruntime {ort.__version__} {instruction_set()}{rows}"

    def warm_up(self) -> None:
        """Runs small and larger batches on slots of its own. Raises ServerFault if bits depend on the batch."""
        check_promise(self, self._spec)

    def allocate(self, count: int) -> Ints:
        """Takes `count` slots in the initial state. Raises CallerError(SESSION_CAPACITY) if there are not as many; then takes
        none."""
        return self._pool.allocate(count)

    def release(self, slots: Ints) -> None:
        """Gives slots back. Raises ServerFault if one is not allocated."""
        self._pool.release(slots)

    def zero(self, slots: Ints) -> None:
        """Puts slots to the initial state."""
        self._pool.zero(slots)

    def copy(self, sources: Ints, targets: Ints) -> None:
        """Copies states between allocated slots."""
        self._pool.copy(sources, targets)

    def read(self, slots: Ints) -> dict[str, Tensor]:
        """States by name, [len(slots), *shape] of their dtypes, copies."""
        return self._pool.read(slots)

    def write(self, slots: Ints, states: dict[str, Tensor]) -> None:
        """The reverse of `read`. Raises CallerError(INVALID_ARGUMENT) naming the state that does not fit."""
        self._pool.write(slots, states)

    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Computed:
        """Runs `length` steps of distinct slots. inputs: one per declared input, [batch, length, *shape]."""
        if function != "step":
            raise ServerFault(Reason.NOT_IMPLEMENTED, f"the model has no function {function!r}, only 'step'")
        # Slices of a launch that is worth many threads are worth them, too.
        count = min(-(-len(slots) // self._kernel.slice_rows), max(1, len(slots) // WIDE_ROWS))
        if count <= 1:
            return self._compute(slots, inputs, length)
        bounds = [len(slots) * part // count for part in range(count + 1)]
        parts = [self._compute(slots[a:b], tuple(value[a:b] for value in inputs), length) for a, b in itertools.pairwise(bounds)]
        return _joined(parts)

    def collect(self, ticket: Computed) -> Computed:
        """The result of a launch; its new states are in the pool already."""
        return ticket

    def _compute(self, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Computed:
        """Runs the graph. If it raises an error, halves the batch until the rows at fault are found; the others are computed."""
        run = self._step if length == 1 else self._chunk if self._kernel.takes_chunks else self._step_by_step
        try:
            return run(slots, inputs)
        except LaunchFailed as error:
            if len(slots) == 1:
                self._failures.tell(str(error))
                outputs = tuple(np.zeros((1, length, *each.shape), each.dtype) for each in self._spec.outputs)
                return Computed(outputs, np.array([Reason.MODEL_FAILED], np.int64))
            half = len(slots) // 2
            first = self._compute(slots[:half], tuple(value[:half] for value in inputs), length)
            return _joined([first, self._compute(slots[half:], tuple(value[half:] for value in inputs), length)])

    def _step(self, slots: Ints, inputs: tuple[Tensor, ...]) -> Computed:
        """One step, in arrays that are bound to the graph already."""
        batch = self._steps.of(len(slots))
        batch.load(inputs)
        self._gather(slots, batch.before)
        batch.run()
        finite = None if _plain(batch.numbers) else self._finite_of(batch)
        return self._settled(slots, batch.after, tuple([output.copy() for output in batch.outputs]), finite)

    def _step_by_step(self, slots: Ints, inputs: tuple[Tensor, ...]) -> Computed:
        """Several steps of a graph that takes one at a time. Nothing is applied before the last of them."""
        batch, length = self._steps.of(len(slots)), inputs[0].shape[1]
        outputs = tuple([np.empty((len(slots), length, *each.shape), each.dtype) for each in self._spec.outputs])
        finite: Mask | None = None
        self._gather(slots, batch.before)
        for step in range(length):
            batch.load([value[:, step : step + 1] for value in inputs])
            batch.run()
            if not _plain(batch.numbers):
                finite = _both(finite, self._finite_of(batch))
            for whole, output in zip(outputs, batch.outputs, strict=True):
                whole[:, step : step + 1] = output
            batch.go_on()
        return self._settled(slots, batch.after, outputs, finite)

    def _chunk(self, slots: Ints, inputs: tuple[Tensor, ...]) -> Computed:
        """Several steps at once. Batches are padded with copies of their last row."""
        batch, seen = len(slots), self._steps.rows_seen(len(slots))
        feeds = dict(zip(self._feeds, (*inputs, *(rows[slots] for rows in self._pool.rows)), strict=True))
        if batch < seen:
            feeds = {name: value.repeat([1] * (batch - 1) + [seen - batch + 1], axis=0) for name, value in feeds.items()}
        found = [result[:batch] for result in launch(self._kernel.sessions.of(seen), self._results, feeds).values()]
        before = [value[:batch] for value in list(feeds.values())[len(inputs) :]]
        outputs, after = tuple(found[: len(self._spec.outputs)]), found[len(self._spec.outputs) :]
        floats = [value for value in (*before, *after, *outputs, *inputs) if value.dtype == np.float32]
        finite = None if all(map(_plain, floats)) else self._finite(before, inputs, after, outputs)
        return self._settled(slots, after, outputs, finite)

    def _gather(self, slots: Ints, places: Sequence[Tensor]) -> None:
        for rows, place in zip(self._pool.rows, places, strict=True):
            # mode="clip" lets numpy write into `out` directly; slots come from the engine and are within range.
            rows.take(slots, axis=0, out=place, mode="clip")

    def _settled(self, slots: Ints, after: Sequence[Tensor], outputs: tuple[Tensor, ...], finite: Mask | None) -> Computed:
        """Puts the new states where they belong; a row that is not finite keeps the state it had."""
        for rows, values in zip(self._pool.rows, after, strict=True):
            if finite is None:
                rows[slots] = values
            else:
                rows[slots[finite]] = values[finite]
        faults = None if finite is None else np.where(finite, 0, int(Reason.NON_FINITE_STATE))
        return Computed(outputs, faults)

    def _finite_of(self, batch: StepBatch) -> Mask | None:
        """Mask of `_finite` of a step in bound arrays; numbers of other batches between them are no reason to look again."""
        batch.tidy()
        return self._finite(batch.before, batch.inputs, batch.after, batch.outputs)

    def _finite(
        self, before: Sequence[Tensor], inputs: Sequence[Tensor], after: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Mask | None:
        """Mask [batch]: True for rows that went in within limits and came out finite; None if all did."""
        limits = self._kernel.limits
        bounds = [(value, limits.state) for value in (*before, *after)] + [(value, limits.value) for value in inputs]
        bounds += [(value, _FLOAT32_MAX) for value in outputs]
        floats = [(value, limit) for value, limit in bounds if value.dtype == np.float32]
        rows = [(np.abs(array) <= limit).reshape(len(array), -1).all(axis=1) for array, limit in floats]
        finite: Mask = np.logical_and.reduce(rows)
        return None if finite.all() else finite


def _both(first: Mask | None, second: Mask | None) -> Mask | None:
    """Rows that are finite in both."""
    if first is None or second is None:
        return second if first is None else first
    return first & second


def _joined(parts: list[Computed]) -> Computed:
    """Slices of a batch as one."""
    outputs = tuple(np.concatenate(values) for values in zip(*(part.outputs for part in parts), strict=True))
    if all(part.faults is None for part in parts):
        return Computed(outputs, None)
    faults = [np.zeros(len(part.outputs[0]), np.int64) if part.faults is None else part.faults for part in parts]
    return Computed(outputs, np.concatenate(faults))


def _plain(array: Tensor) -> bool:
    """Tells whether no number is a NaN or beyond PLAIN, which takes 0.5 us for a session and 20 us for a thousand."""
    if array.size <= _SMALL:
        return bool(np.vdot(array, array) <= PLAIN**2)
    return bool(array.max() <= PLAIN and array.min() >= -PLAIN)


def build_onnx(
    spec: ModelSpec,
    weights: Mapping[str, NDArray[np.float32]],
    graph: bytes,
    settings: BackendSettings,
    *,
    slots: int,
    max_batch: int,
) -> OnnxBackend:
    """A backend ready for `warm_up`. Raises ServerFault if the runtime would not keep its results independent of the batch, and
    BundleError for a program that cannot be computed."""
    if isinstance(spec.computation, Program):
        kernel = program_kernel(spec, graph, settings, max_batch)
    else:
        kernel = cell_kernel(spec, weights, settings)
    return OnnxBackend(spec, kernel, slots, max_batch)
