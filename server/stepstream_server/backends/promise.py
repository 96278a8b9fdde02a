"""The bitwise promise, tried on a live backend: a session's results do not depend on its batch, its row or how it was cut."""

from __future__ import annotations

import numpy as np

from stepstream_server.cores import WIDE_ROWS
from stepstream_server.engine.ports import Backend, Ints, Tensor
from stepstream_server.errors import Reason, ServerFault
from stepstream_server.programs import samples
from stepstream_server.spec import ModelSpec, Program

BATCH = 7  # rows: more than one, odd, and beside a vector width
LARGE_BATCH = 64  # rows: past every kernel's small-batch path
LENGTH = 5  # steps

Result = list[Tensor]  # outputs [1, LENGTH, width], then states [1, *shape]


def check_promise(backend: Backend, spec: ModelSpec) -> None:
    """Steps one session alone step by step, alone as a chunk, and in batches; raises ServerFault where bits differ.

    Uses slots of its own, and returns them. Takes well under a second for models that a CPU can serve.
    """
    rows = min(WIDE_ROWS, backend.slots, backend.max_batch)
    slots = backend.allocate(rows)
    try:
        _compare(backend, spec, slots)
    finally:
        backend.release(slots)


def _compare(backend: Backend, spec: ModelSpec, slots: Ints) -> None:
    """Runs one session's steps in every way and compares with the first."""
    inputs, states = _example(spec, len(slots))
    expected: Result | None = None
    for rows in sorted({1, *(min(batch, len(slots)) for batch in (BATCH, LARGE_BATCH, WIDE_ROWS))}):
        for chunk in (1, LENGTH):
            # The session sits in the batch's last row and, each time, in another slot.
            backend.write(slots, states)
            result = _run(backend, slots[-rows:], tuple(value[-rows:] for value in inputs), chunk)
            expected = expected or result
            if not all(np.array_equal(a, b) for a, b in zip(expected, result, strict=True)):
                message = f"model {spec.name}: bits of a session change with its batch ({rows} rows, chunks of {chunk})"
                raise ServerFault(Reason.ENGINE_FAILED, message)


def _run(backend: Backend, slots: Ints, inputs: tuple[Tensor, ...], chunk: int) -> Result:
    """LENGTH steps in chunks; the last row's outputs and states."""
    outputs: list[tuple[Tensor, ...]] = []
    for begin in range(0, LENGTH, chunk):
        part = tuple(value[:, begin : begin + chunk] for value in inputs)
        outputs.append(backend.collect(backend.launch("step", slots, part, chunk)).outputs)
    states = backend.read(slots[-1:])
    return [*(np.concatenate(parts, axis=1)[-1:] for parts in zip(*outputs, strict=True)), *states.values()]


def _example(spec: ModelSpec, rows: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Inputs over the whole range of what the model takes, and states such as cells reach. Of a program it is not known which
    it takes: its sessions begin."""
    inputs = tuple(samples.random_inputs(spec, rows, LENGTH).values())
    if isinstance(spec.computation, Program):
        return inputs, {s.name: np.tile(s.initial_value, (rows, *[1] * len(s.shape))) for s in spec.states}
    rng = np.random.default_rng(0)
    return inputs, {s.name: rng.uniform(-1, 1, (rows, *s.shape)).astype(np.float32) for s in spec.states}
