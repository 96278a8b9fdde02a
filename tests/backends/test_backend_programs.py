"""Programs on the CPU backend: initial states, chunks of a graph that takes one step, padding, rows at which a graph fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from structlog.testing import capture_logs

from stepstream_server.backends import build
from stepstream_server.backends.promise import check_promise
from stepstream_server.backends.state_pool import StatePool
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Backend
from stepstream_server.errors import BundleError, Reason
from stepstream_server.spec import ModelSpec, StateSpec
from support.batches import rows_of, run
from support.graphs import counting, floats, graph, mixing, program

HIDDEN = [7, 8, 33]


def backend_of(model: tuple[ModelSpec, bytes], *, slots: int = 80, max_batch: int = 64) -> Backend:
    """A backend on one thread."""
    spec, content = model
    return build(spec, {}, BackendSettings(threads=1, trial_seconds=60), slots=slots, max_batch=max_batch, graph=content)


def readings(rows: int, steps: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Inputs from -1 to 1."""
    return np.random.default_rng(3).uniform(-1, 1, (rows, steps, *shape)).astype(np.float32)


def softplus(width: int) -> tuple[ModelSpec, bytes]:
    """A program whose bits depend on where a buffer ends: launches are padded to a multiple of 8 rows."""
    text = "g (float[B,W] x, float[B,W] h) => (float[B,W] y, float[B,W] hn) { a = Add(x, h) y = Softplus(a) hn = Tanh(y) }"
    spec = program([floats("x", width)], [StateSpec("h", (width,))], [floats("y", width)])
    return spec, graph(text.replace("W", str(width))).SerializeToString()


def scaled() -> tuple[ModelSpec, bytes]:
    """A program with one scale over the whole batch: it runs row by row."""
    text = "g (float[B,2] x, float[B,2] h) => (float[B,2] y, float[B,2] hn) { m = ReduceMax(x) y = Sub(x, m) hn = Add(y, h) }"
    return program([floats("x", 2)], [StateSpec("h", (2,))], [floats("y", 2)]), graph(text).SerializeToString()


@pytest.mark.parametrize("model", [*(mixing(hidden) for hidden in HIDDEN), softplus(3), softplus(16)], ids=lambda each: "")
def test_a_session_has_the_same_bits_in_every_batch_and_cut(model: tuple[ModelSpec, bytes]) -> None:
    """Alone, among others, in any row and slot, step by step and in chunks: one result."""
    spec, backend = model[0], backend_of(model)
    values = readings(64, 12, *spec.inputs[0].shape)
    states = {state.name: readings(64, 1, *state.shape)[:, 0] for state in spec.states}
    whole = run(backend, states, [values], [12])
    for batch in (1, 2, 3, 7, 8, 33, 64):
        rows = np.random.default_rng(batch).permutation(64)[:batch]
        for cuts in ([1] * 12, [5, 7], [12]):
            outputs, final = run(backend, rows_of(states, rows), [values[rows]], cuts, shift=batch % 5)
            assert outputs[0].tobytes() == whole[0][0][rows].tobytes()
            assert all(value.tobytes() == whole[1][name][rows].tobytes() for name, value in final.items())
    check_promise(backend, spec)


@pytest.mark.parametrize("reduction", ["ReduceMean", "ReduceL2"])
def test_sums_over_an_input_do_not_depend_on_where_it_lies(reduction: str) -> None:
    """Their kernels begin at the next whole vector: each array of a launch lies on one."""
    text = "g (float[B,1024] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) { y = Reduction(x, one) hn = Add(h, y) }"
    x, h = floats("x", 1024), StateSpec("h", (1,))
    backend = backend_of(
        (program([x], [h], [floats("y", 1)]), graph(text.replace("Reduction", reduction), one=np.array([1])).SerializeToString())
    )
    values, states = readings(24, 3, 1024), {"h": np.zeros((24, 1), np.float32)}
    alone = [run(backend, rows_of(states, np.array([row])), [values[[row]]], [1, 1, 1])[0][0] for row in range(24)]
    for batch in range(2, 25):
        outputs, _ = run(backend, rows_of(states, np.arange(batch)), [values[:batch]], [1, 1, 1])
        assert outputs[0].tobytes() == np.concatenate(alone[:batch]).tobytes()


def test_numbers_of_other_batches_between_arrays_are_no_fault() -> None:
    """Launches of all sizes share memory; a session whose state was beyond all bounds leaves none of it behind."""
    backend = backend_of(mixing(33))
    slots = backend.allocate(8)
    poison = np.full((8, 1, 2), np.inf, np.float32)
    faults = backend.collect(backend.launch("step", slots, (poison,), 1)).faults
    assert faults is not None
    assert faults.all()
    for rows in range(1, 9):
        assert backend.collect(backend.launch("step", slots[:rows], (np.zeros((rows, 1, 2), np.float32),), 1)).faults is None


def test_states_that_no_memory_holds_are_refused() -> None:
    """And what to lower is named."""
    with pytest.raises(BundleError, match=r"engine\.capacity: expected states that fit into memory, got 1024 "):
        StatePool([StateSpec("h", (1 << 40,))], 1024)


def test_the_multiple_is_told_and_part_of_the_numerics() -> None:
    """A snapshot of another multiple does not go on with the same bits."""
    plain, padded, alone = backend_of(mixing()), backend_of(softplus(3)), backend_of(scaled())
    assert [each.batching for each in (plain, padded, alone)] == [1, 8, 0]
    assert [each.numerics.rpartition(", ")[2] for each in (plain, padded, alone)] == ["rows by 1", "rows by 8", "rows by 0"]
    assert [each.max_batch for each in (plain, padded, alone)] == [64, 64, 1]


def test_what_cannot_be_computed_together_runs_row_by_row() -> None:
    """One session's numbers are those of the graph by itself."""
    backend = backend_of(scaled())
    (slot,) = backend.allocate(1)
    x = np.array([[[1, 5]]], np.float32)
    computed = backend.collect(backend.launch("step", np.array([slot]), (x,), 1))
    assert computed.outputs[0].tolist() == [[[-4, 0]]]


def test_sessions_begin_with_the_initial_state() -> None:
    """Fresh slots, slots that were used, and those that are reset; states have their dtypes."""
    backend = backend_of(counting(), slots=4)
    slots = backend.allocate(4)
    assert backend.read(slots)["sum"].dtype == np.int32
    assert backend.read(slots)["sum"].tolist() == [[100]] * 4
    backend.collect(backend.launch("step", slots, (np.full((4, 1, 1), 5, np.int32),), 1))
    assert backend.read(slots)["sum"].tolist() == [[105]] * 4
    backend.zero(slots[:1])
    backend.release(slots[1:])
    again = backend.allocate(3)
    assert backend.read(np.concatenate([slots[:1], again]))["sum"].tolist() == [[100]] * 4
    backend.write(again[:1], {"sum": np.array([[-7]], np.int32)})
    backend.copy(again[:1], again[1:2])
    assert backend.read(again)["sum"].tolist() == [[-7], [-7], [100]]
    assert backend.state_bytes == 4


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("bad", [[0], [4], [8], [0, 3, 8], list(range(9))])
def test_a_graph_that_fails_at_some_rows_is_computed_for_the_others(length: int, bad: list[int]) -> None:
    """Only the rows at fault keep their state and hear of it, also where the fault is in the last step of a chunk."""
    backend = backend_of(counting())
    slots = backend.allocate(9)
    values = np.ones((9, length, 1), np.int32)
    values[bad, -1] = 13
    computed = backend.collect(backend.launch("step", slots, (values,), length))
    good = [row not in bad for row in range(9)]
    assert computed.faults is not None
    assert computed.faults.tolist() == [0 if fine else Reason.MODEL_FAILED for fine in good]
    assert backend.read(slots)["sum"].ravel().tolist() == [100 + length * fine for fine in good]
    assert computed.outputs[0].shape == (9, length, 1)
    assert (computed.outputs[0][good, -1] == 100 + length).all()


def test_the_log_tells_of_failing_steps_and_is_not_flooded() -> None:
    """With the runtime's words; however many there are within a second."""
    backend = backend_of(counting())
    slots = backend.allocate(9)
    with capture_logs() as lines:
        for _ in range(3):
            backend.launch("step", slots, (np.full((9, 1, 1), 13, np.int32),), 1)
    told = [line for line in lines if line["event"] == "model_failed"]
    assert told
    assert len(told) < 9
    assert told[0]["model"] == "counting"
    assert "indices element out of data bounds" in told[0]["error"]


def test_states_that_no_model_reaches_count_as_not_finite() -> None:
    """A brought graph has no known limits: beyond 1e15 its squares would overflow unseen."""
    text = "g (float[B,1] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) { hn = Mul(h, k) y = Tanh(x) }"
    spec = program([floats("x", 1)], [StateSpec("h", (1,), initial=(1e10,))], [floats("y", 1)])
    model = spec, graph(text, k=np.array(1e4, np.float32)).SerializeToString()
    backend = backend_of(model)
    slots = backend.allocate(2)
    backend.write(slots[1:], {"h": np.array([[1.0]], np.float32)})
    for faults in (None, [Reason.NON_FINITE_STATE, 0]):
        computed = backend.collect(backend.launch("step", slots, (np.zeros((2, 1, 1), np.float32),), 1))
        assert (computed.faults if computed.faults is None else computed.faults.tolist()) == faults
    assert backend.read(slots)["h"].ravel().tolist() == [pytest.approx(1e14), pytest.approx(1e8)]


def test_a_step_of_a_chunk_that_is_not_finite_applies_none() -> None:
    """Though the last step's state is an ordinary number again."""
    text = "g (float[B,1] x, float[B,1] h) => (float[B,1] y, float[B,1] hn) { y = Div(one, x) hn = Tanh(x) }"
    spec = program([floats("x", 1)], [StateSpec("h", (1,))], [floats("y", 1)])
    backend = backend_of((spec, graph(text, one=np.ones(1, np.float32)).SerializeToString()))
    slots = backend.allocate(2)
    values = np.array([[[1], [0], [1]], [[1], [1], [1]]], np.float32)
    computed = backend.collect(backend.launch("step", slots, (values,), 3))
    assert computed.faults is not None
    assert computed.faults.tolist() == [Reason.NON_FINITE_STATE, 0]
    assert backend.read(slots)["h"].ravel().tolist() == [0, pytest.approx(np.tanh(1), abs=1e-6)]


def test_a_program_equals_its_graph_in_numpy() -> None:
    """Step by step within 1e-6 of the equations written out."""
    spec, content = mixing(8)
    weights = {each.name: each for each in onnx.ModelProto.FromString(content).graph.initializer}
    w, r, out = (numpy_helper.to_array(weights[name]) for name in ("w", "r", "out"))
    x, h = readings(3, 6, 2), np.zeros((3, 8), np.float32)
    outputs, _ = run(backend_of((spec, content)), {"h": h}, [x], [6])
    for step in range(6):
        h = np.tanh(x[:, step] @ w + h @ r)
        np.testing.assert_allclose(outputs[0][:, step], h @ out, atol=1e-6)


def test_the_torch_backend_says_that_it_serves_no_programs() -> None:
    """With what to do instead."""
    pytest.importorskip("torch")
    spec, content = mixing()
    with pytest.raises(BundleError, match="model mixing: the torch backend serves cells, and no programs yet; set backend.kind"):
        build(spec, {}, BackendSettings(kind="torch"), slots=1, max_batch=1, graph=content)
