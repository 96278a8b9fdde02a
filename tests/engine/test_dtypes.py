"""Inputs, states and outputs of every dtype, in one model: what is taken, what is refused and why, and what a copy holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from stepstream_server import snapshots
from stepstream_server.engine.ports import Imported, Tensor
from stepstream_server.errors import CallerError, Reason
from stepstream_server.snapshots import Snapshot
from support.engine import Answer, Harness, Refusal
from support.mixed import BEGIN, RANGE, TOKENS, MixedBackend, mixed_spec

BEYOND = float(np.nextafter(np.float32(RANGE), np.float32(9)))
WELL: dict[str, Any] = {"level": [0.5, -0.5], "count": 1, "token": 3, "flag": [True, False]}
MANY = 9000  # steps of two numbers: more than are looked at in one go


class Mixed(Harness):
    """A step is a dictionary by input."""

    spec = mixed_spec()

    def __init__(self) -> None:
        super().__init__(MixedBackend(), max_pending_steps=20_000, window_steps=20_000)

    def _inputs(self, values: Sequence[Any]) -> tuple[Tensor, ...]:
        return tuple(np.array([step[each.name] for step in values], each.dtype) for each in self.spec.inputs)

    def totals(self, steps: Sequence[dict[str, Any]]) -> list[Answer | Refusal]:
        """Outcomes of these steps in a new session, as one row."""
        (session,) = self.open()
        self.send([session], [0], [steps])  # type: ignore[list-item]
        return self.settle()


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"level": [RANGE, -RANGE]}, None),
        ({"level": [0.0, BEYOND]}, Reason.INPUT_OUT_OF_RANGE),
        ({"level": [-BEYOND, 0.0]}, Reason.INPUT_OUT_OF_RANGE),
        ({"level": [0.0, np.inf]}, Reason.NON_FINITE_INPUT),
        ({"level": [np.nan, 0.0]}, Reason.NON_FINITE_INPUT),
        ({"level": [np.nan, 0.0], "token": TOKENS}, Reason.NON_FINITE_INPUT),
        ({"level": [BEYOND, np.nan]}, Reason.NON_FINITE_INPUT),
        ({"token": TOKENS - 1}, None),
        ({"token": TOKENS}, Reason.INPUT_OUT_OF_RANGE),
        ({"token": -1}, Reason.INPUT_OUT_OF_RANGE),
        ({"count": -(2**31)}, None),
        ({"flag": [True, True]}, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("before", [0, 1, MANY])
def test_each_row_is_held_to_range_and_limit(step: dict[str, Any], reason: Reason | None, before: int) -> None:
    """In its last step too, alone or behind many; its neighbour is answered."""
    h = Mixed()
    bad, good = h.open(2)
    rows: Any = [[WELL] * before + [{**WELL, **step}], [WELL]]
    h.send([bad, good], [0, 0], rows)
    refused = [(each.handle, each.reason) for each in h.settle() if isinstance(each, Refusal)]
    assert refused == ([] if reason is None else [(0, reason)])
    assert [h.get(each.id).next_seq for each in (bad, good)] == [0 if reason else before + 1, 1]


def test_a_number_out_of_range_hears_what_is_in_range() -> None:
    """Of every input that has bounds."""
    h = Mixed()
    h.totals([{**WELL, "token": 9}])
    bounds = f"-{RANGE} <= level <= {RANGE} and 0 <= token < {TOKENS}"
    assert h.ear.messages == [f"inputs of the 1 steps from 0 on: expected {bounds}, got a number beyond"]


def test_a_reset_leads_to_the_stored_state() -> None:
    """Which is where a session begins."""
    h = Mixed()
    (a,) = h.open()
    step: Any = [WELL]
    h.send([a], [0], [step])
    h.settle()
    assert h.backend.read(np.array([h.get(a.id).slot]))["total"].tolist() == [BEGIN + 1]
    h.reset(a, 1)
    h.settle()
    state = h.backend.read(np.array([h.get(a.id).slot]))
    assert {name: values[0].tolist() for name, values in state.items()} == {
        "level": [0.0, 0.0],
        "total": BEGIN,
        "seen": [False, False],
    }


def exported(h: Mixed) -> Snapshot:
    """A session that has made two steps, one of them unacknowledged, and is closed."""
    (a,) = h.open()
    steps: Any = [WELL, {**WELL, "flag": [False, True]}]
    h.send([a], [0], [steps])
    request = h.export(a, close=True)
    h.settle()
    snapshot: Snapshot = h.ear.replies[request]
    return snapshot


def test_a_snapshot_holds_every_dtype() -> None:
    """Its bytes hold them, and so does the session that is made of it, with the answers that nobody has acknowledged."""
    h = Mixed()
    snapshot = snapshots.decode(snapshots.encode(exported(h)))
    assert {name: (each.dtype.name, each.tolist()) for name, each in snapshot.states.items()} == {
        "level": ("float32", [0.5, -0.5]),
        "total": ("int32", BEGIN + 2),
        "seen": ("bool", [True, True]),
    }
    assert {name: (each.dtype.name, each.tolist()) for name, each in snapshot.outputs.items() if name != "level"} == {
        "total": ("int32", [BEGIN + 1, BEGIN + 2]),
        "token": ("int64", [3, 3]),
        "seen": ("bool", [[True, False], [True, True]]),
    }
    imported = h.load(snapshot, "again")
    assert isinstance(imported, Imported)
    assert h.backend.read(np.array([h.get("again").slot]))["total"].tolist() == [BEGIN + 2]


@pytest.mark.parametrize(
    ("state", "value", "said"),
    [
        ("level", np.array([2e15, 0], np.float32), "state level: expected numbers from -1e+15 to 1e+15, got 2e+15"),
        ("level", np.array([0, -np.inf], np.float32), "state level: expected finite numbers"),
        ("total", np.array(1, np.int64), "state total: expected int32 [], got int64 []"),
        ("seen", np.array([1, 0], np.int32), "state seen: expected bool [2], got int32 [2]"),
    ],
)
def test_a_snapshot_of_states_that_no_session_has_is_refused(state: str, value: Tensor, said: str) -> None:
    """Of another dtype, or so large that the next launch would quarantine it."""
    h = Mixed()
    snapshot = exported(h)
    error = h.load(dataclasses.replace(snapshot, states={**snapshot.states, state: value}), "again")
    assert (error.reason, error.message) == (Reason.SNAPSHOT_CORRUPT, f"snapshot: {said}")


def test_a_truth_value_is_0_or_1_in_a_snapshot() -> None:
    """Other bytes would mean one thing to one reader and another to the next."""
    snapshot = exported(Mixed())
    odd = np.array([2, 1], np.uint8).view(np.bool_)
    data = snapshots.encode(dataclasses.replace(snapshot, states={**snapshot.states, "seen": odd}))
    with pytest.raises(CallerError, match=r"^snapshot: state\.seen: expected bytes of 0 or 1$"):
        snapshots.decode(data)


def test_an_engine_of_every_dtype_warms_up() -> None:
    """With inputs that the model takes."""
    h = Mixed()
    h.engine.warm_up()
    assert h.backend.launches
    assert h.engine.limits.batching == h.engine.stats().batching == 4
