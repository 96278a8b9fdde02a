"""The CPU backend: batches computed by ONNX Runtime, states in a numpy pool. Knows nothing of sessions, queues or bundles.

A launch gathers the slots' states with numpy, runs the graph, checks it, and scatters: outside the graph that costs a few
microseconds. Everything is done at `launch`; `collect` hands the result over.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from stepstream_server.backends.limits import PLAIN, Limits, limits
from stepstream_server.backends.numerics import instruction_set
from stepstream_server.backends.onnx_graph import build_graph
from stepstream_server.backends.onnx_step import Sessions, StepBatches
from stepstream_server.backends.promise import check_promise
from stepstream_server.backends.state_pool import StatePool
from stepstream_server.backends.threads import WIDE_ROWS, compute_threads
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Computed, Ints, Tensor
from stepstream_server.errors import Reason, ServerFault
from stepstream_server.spec import ModelSpec

_PREPACKING = "session.disable_prepacking"
_SPINNING = "session.intra_op.allow_spinning"
# Rows below which an operator takes another path and gives other bits (found on onnxruntime 1.31): such batches are padded.
_LEAST_ROWS = {"lstm": 1, "gru": 1, "rnn": 2}
_SLICE_BYTES = 2 << 20  # about what a core's own caches hold
_LEAST_SLICE = 256  # rows over which the reading of large weights is spread
_SMALL = 8192  # numbers up to which BLAS's product is the quickest look at them; beyond 10,000 it takes threads of its own

Mask = NDArray[np.bool_]


class OnnxBackend:
    """Implements `engine.ports.Backend`."""

    def __init__(self, spec: ModelSpec, sessions: Sessions, pool: StatePool, bounds: Limits, max_batch: int) -> None:
        self._spec = spec
        self._sessions = sessions
        self._pool = pool
        self._limits = bounds
        self._inputs = [f"input.{tensor.name}" for tensor in spec.inputs]
        self._results = [*(f"output.{tensor.name}" for tensor in spec.outputs), "next_state"]
        self._least_rows = _LEAST_ROWS[spec.cell.kind]
        self._max_batch = max_batch
        self._slice_rows = _slice_rows(spec)
        self._steps = StepBatches(sessions, spec, self._least_rows, min(max_batch, 2 * self._slice_rows))

    @property
    def slots(self) -> int:
        """Rows of the state pool."""
        return len(self._pool)

    @property
    def state_bytes(self) -> int:
        """Bytes of one slot."""
        return self._spec.state_elements * 4

    @property
    def max_batch(self) -> int:
        """Rows that one launch may have."""
        return self._max_batch

    @property
    def depth(self) -> int:
        """Launches under way at once: `launch` does all the work."""
        return 1

    @property
    def numerics(self) -> str:
        """What bits of outputs depend on beside the model."""
        return f"onnxruntime {ort.__version__} {instruction_set()}"

    def warm_up(self) -> None:
        """Runs small and larger batches on slots of its own. Raises ServerFault if bits depend on the batch."""
        check_promise(self, self._spec)

    def allocate(self, count: int) -> Ints:
        """Takes `count` zeroed slots. Raises CallerError(SESSION_CAPACITY) if there are not as many; then takes none."""
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
        """States by name, [len(slots), *shape] float32, copies."""
        return self._pool.read(slots)

    def write(self, slots: Ints, states: dict[str, Tensor]) -> None:
        """The reverse of `read`. Raises CallerError(INVALID_ARGUMENT) naming the state that does not fit."""
        self._pool.write(slots, states)

    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Computed:
        """Runs `length` steps of distinct slots. inputs: one per declared input, [batch, length, *shape]."""
        if function != "step":
            raise ServerFault(Reason.NOT_IMPLEMENTED, f"the model has no function {function!r}, only 'step'")
        run = self._step if length == 1 else self._chunk
        # Slices of a launch that is worth many threads are worth them, too.
        count = min(-(-len(slots) // self._slice_rows), max(1, len(slots) // WIDE_ROWS))
        if count <= 1:
            return run(slots, inputs)
        bounds = [len(slots) * part // count for part in range(count + 1)]
        return _joined([run(slots[a:b], tuple(value[a:b] for value in inputs)) for a, b in itertools.pairwise(bounds)])

    def collect(self, ticket: Computed) -> Computed:
        """The result of a launch; its new states are in the pool already."""
        return ticket

    def _step(self, slots: Ints, inputs: tuple[Tensor, ...]) -> Computed:
        """One step, in arrays that are bound to the graph already."""
        batch = self._steps.of(len(slots))
        batch.load(inputs)
        # mode="clip" lets numpy write into `out` directly; slots come from the engine and are within range.
        self._pool.rows.take(slots, axis=0, out=batch.before, mode="clip")
        batch.session.run_with_iobinding(batch.binding)
        plain = _plain(batch.numbers)
        finite = None if plain else self._finite(batch.before, batch.inputs, batch.after, batch.outputs)
        self._scatter(slots, batch.after, finite)
        return Computed(tuple([output.copy() for output in batch.outputs]), finite)

    def _chunk(self, slots: Ints, inputs: tuple[Tensor, ...]) -> Computed:
        """Several steps. Batches smaller than the least number of rows are padded with copies of their last row."""
        batch = len(slots)
        feeds = dict(zip(self._inputs, inputs, strict=True), state=self._pool.rows[slots])
        if batch < self._least_rows:
            feeds = {
                name: value.repeat([1] * (batch - 1) + [self._least_rows - batch + 1], axis=0) for name, value in feeds.items()
            }
        *outputs, after = (result[:batch] for result in self._sessions.of(batch).run(self._results, feeds))
        before = feeds["state"][:batch]
        plain = all(map(_plain, (before, after, *outputs, *(value for value in inputs if value.dtype == np.float32))))
        finite = None if plain else self._finite(before, inputs, after, tuple(outputs))
        self._scatter(slots, after, finite)
        return Computed(tuple(outputs), finite)

    def _scatter(self, slots: Ints, after: Tensor, finite: Mask | None) -> None:
        """Puts the new states where they belong; a row that is not finite keeps the state it had."""
        if finite is None:
            self._pool.rows[slots] = after
        else:
            self._pool.rows[slots[finite]] = after[finite]

    def _finite(self, before: Tensor, inputs: tuple[Tensor, ...], after: Tensor, outputs: tuple[Tensor, ...]) -> Mask | None:
        """Which rows went in within limits and came out finite; None if all did."""
        bounds = [(before, self._limits.state), (after, self._limits.state)]
        bounds += [(value, self._limits.value) for value in inputs if value.dtype == np.float32]
        bounds += [(value, float(np.finfo(np.float32).max)) for value in outputs]
        rows = [(np.abs(array) <= limit).reshape(len(array), -1).all(axis=1) for array, limit in bounds]
        finite: Mask = np.logical_and.reduce(rows)
        return None if finite.all() else finite


def _joined(parts: list[Computed]) -> Computed:
    """Slices of a batch as one."""
    outputs = tuple(np.concatenate(values) for values in zip(*(part.outputs for part in parts), strict=True))
    if all(part.finite is None for part in parts):
        return Computed(outputs, None)
    masks = [np.ones(len(part.outputs[0]), np.bool_) if part.finite is None else part.finite for part in parts]
    return Computed(outputs, np.concatenate(masks))


def _slice_rows(spec: ModelSpec) -> int:
    """Rows that are computed together: as many as fit the caches with states, before and after, and gates.

    Measured for 1,000 rows of an LSTM: 5 to 15 % less time than all at once for H = 128 and 256, the same for 64 and 512.
    """
    row_bytes = 4 * (2 * spec.state_elements + 4 * spec.cell.hidden_size)
    return max(_LEAST_SLICE, _SLICE_BYTES // row_bytes)


def _plain(array: Tensor) -> bool:
    """Whether no number is a NaN or beyond PLAIN, which takes 0.5 us for a session and 20 us for a thousand."""
    if array.size <= _SMALL:
        return bool(np.vdot(array, array) <= PLAIN**2)
    return bool(array.max() <= PLAIN and array.min() >= -PLAIN)


def build_onnx(
    spec: ModelSpec, weights: Mapping[str, NDArray[np.float32]], settings: BackendSettings, *, slots: int, max_batch: int
) -> OnnxBackend:
    """A backend ready for `warm_up`. Raises ServerFault if the runtime would not keep its results independent of the batch."""
    weight_bytes = sum(each.nbytes for each in weights.values())
    threads, wide_threads = (compute_threads(settings, weight_bytes, rows) for rows in (1, WIDE_ROWS))
    few = _session(spec, weights, settings, threads)
    many = few if wide_threads == threads else _session(spec, weights, settings, wide_threads)
    return OnnxBackend(spec, Sessions(few, many), StatePool(spec.states, slots), limits(spec, weights), max_batch)


def _session(
    spec: ModelSpec, weights: Mapping[str, NDArray[np.float32]], settings: BackendSettings, threads: int
) -> ort.InferenceSession:
    """Weights as initialisers, packed once: only then are the kernels' sums the same for every batch (checked here)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1  # the graph is a chain
    options.log_severity_level = 3  # errors; warnings of the optimiser tell an operator nothing
    options.add_session_config_entry(_PREPACKING, "0")
    options.add_session_config_entry(_SPINNING, "1" if settings.spinning else "0")
    session = ort.InferenceSession(build_graph(spec, weights).SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed = {tensor.name for tensor in [*session.get_inputs(), *session.get_overridable_initializers()]}
    if fed != {"state", *(f"input.{tensor.name}" for tensor in spec.inputs)}:
        raise ServerFault(Reason.ENGINE_FAILED, f"weights are not constants of the graph; it is fed {sorted(fed)}")
    if session.get_session_options().get_session_config_entry(_PREPACKING) != "0":
        raise ServerFault(Reason.ENGINE_FAILED, "onnxruntime does not pack weights: results would depend on the batch")
    return session
