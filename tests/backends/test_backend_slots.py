"""Slots of the state pool, for both backends alike: taken, given back, zeroed, copied, read, written."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream_server.backends import build
from stepstream_server.backends.state_pool import SlotList, StatePool
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import Backend
from stepstream_server.errors import CallerError, Reason, ServerFault
from stepstream_server.spec import StateSpec
from support.batches import random_states
from support.models import random_model

SLOTS = 6


@pytest.fixture(params=["onnx", "torch"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """A backend with six slots; states h [2, 4], c [2, 4], previous [3], last.y [1]."""
    spec, weights = random_model(inputs=3, hidden=4, layers=2, differences=True)
    return build(spec, weights, BackendSettings(kind=request.param, threads=1), slots=SLOTS, max_batch=4)


def states_of(rows: int) -> dict[str, Any]:
    """Random states of that backend's model."""
    return random_states(random_model(inputs=3, hidden=4, layers=2, differences=True)[0], rows)


def test_a_backend_says_how_large_it_is(backend: Backend) -> None:
    """Slots, rows of a launch and bytes of a state are what was asked for."""
    assert (backend.slots, backend.max_batch, backend.state_bytes) == (SLOTS, 4, 4 * (8 + 8 + 3 + 1))


def test_slots_are_distinct_and_zero(backend: Backend) -> None:
    """All slots can be taken, each once, and hold zeros."""
    slots = np.concatenate([backend.allocate(2), backend.allocate(0), backend.allocate(4)])
    assert sorted(slots.tolist()) == list(range(SLOTS))
    assert not any(value.any() for value in backend.read(slots).values())


def test_too_many_slots_are_refused_and_none_taken(backend: Backend) -> None:
    """A request for more than are free takes nothing."""
    backend.allocate(4)
    with pytest.raises(CallerError) as error:
        backend.allocate(3)
    assert error.value.reason is Reason.SESSION_CAPACITY
    assert len(backend.allocate(2)) == 2


def test_a_reused_slot_is_zero(backend: Backend) -> None:
    """Nothing of the former session is left, also beside slots that were never used."""
    slots = backend.allocate(2)
    backend.write(slots, states_of(2))
    backend.release(slots)
    again = backend.allocate(4)
    assert set(slots.tolist()) <= set(again.tolist())
    assert not any(value.any() for value in backend.read(again).values())


@pytest.mark.parametrize("slots", [[0, 0], [5]])
def test_releasing_what_is_not_taken_is_a_fault(backend: Backend, slots: list[int]) -> None:
    """A slot given back twice would come to be shared by two sessions."""
    backend.allocate(3)
    with pytest.raises(ServerFault, match="not allocated"):
        backend.release(np.array(slots))
    backend.release(np.arange(3))


def test_states_are_read_as_they_were_written(backend: Backend) -> None:
    """By name and shape, in any order of slots, and as copies."""
    slots, states = backend.allocate(4)[::-1].copy(), states_of(4)
    backend.write(slots, states)
    read = backend.read(slots[[2, 0]])
    assert {name: value.shape[1:] for name, value in read.items()} == {"h": (2, 4), "c": (2, 4), "previous": (3,), "last.y": (1,)}
    assert all(np.array_equal(value, states[name][[2, 0]]) for name, value in read.items())
    read["h"][:] = 7
    assert np.array_equal(backend.read(slots)["h"], states["h"])


def test_zeroing_and_copying_touch_only_their_slots(backend: Backend) -> None:
    """One slot is zeroed, one becomes another's copy, the rest stays."""
    slots, states = backend.allocate(4), states_of(4)
    backend.write(slots, states)
    backend.zero(slots[:1])
    backend.copy(slots[1:2], slots[2:3])
    expected = {name: np.stack([0 * value[0], value[1], value[1], value[3]]) for name, value in states.items()}
    assert all(np.array_equal(value, expected[name]) for name, value in backend.read(slots).items())


@pytest.mark.parametrize(
    ("change", "field"),
    [({"h": None}, "states.h"), ({"extra": np.zeros(1)}, "states.extra"), ({"c": np.zeros((2, 4, 2), np.float32)}, "states.c")],
)
def test_states_that_do_not_fit_are_refused(backend: Backend, change: dict[str, Any], field: str) -> None:
    """Missing, unknown or of another shape: the error names the state, and nothing is written."""
    slots = backend.allocate(2)
    states = {name: value for name, value in (states_of(2) | change).items() if value is not None}
    with pytest.raises(CallerError) as error:
        backend.write(slots, states)
    assert (error.value.reason, error.value.field) == (Reason.INVALID_ARGUMENT, field)
    assert not any(value.any() for value in backend.read(slots).values())


def test_an_unknown_function_is_refused(backend: Backend) -> None:
    """A model has one function today."""
    with pytest.raises(ServerFault, match="'encode'"):
        backend.launch("encode", backend.allocate(1), (np.zeros((1, 1, 3), np.float32),), 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40))
def test_no_slot_is_ever_handed_out_twice(moves: list[tuple[bool, int]]) -> None:
    """After any taking and giving back, taken and free slots are the whole pool, without overlap."""
    slots, taken = SlotList(12), [np.zeros(0, np.int64)]
    for take, count in moves:
        held = np.concatenate(taken)
        if take and count <= slots.free:
            taken.append(slots.allocate(count)[0])
        elif not take and count <= held.size:
            slots.release(held[:count])
            taken = [held[count:]]
        held = np.concatenate(taken)
        assert np.unique(held).size == held.size == 12 - slots.free


def resident_bytes() -> int:
    """Memory of this process that is real."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_untouched_slots_cost_no_memory() -> None:
    """Of a pool of 512 MiB only what is written becomes real."""
    before = resident_bytes()
    pool = StatePool([StateSpec("h", (1, 1024))], 1 << 17)
    slots = pool.allocate(2)
    pool.write(slots, {"h": np.ones((2, 1, 1024), np.float32)})
    assert pool.read(slots)["h"].sum() == 2048
    assert resident_bytes() - before < 64 << 20
