"""What is said of packed blocks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks import packed
from benchmarks.drive import Targets
from benchmarks.load import Result
from benchmarks.packed import row_3, row_4
from benchmarks.process import Server
from benchmarks.report import Line
from benchmarks.timing import SMOKE, Effort
from stepstream_server.bundles import Bundle

NOBODY = Server("nowhere", 0)


def _run(rate: int) -> Result:
    """One second of so many steps, from a generator that is hardly busy."""
    return Result(rate, 1, 1.0, 0.1, 0.1, 0.001, 0.002, 0.003)


@pytest.mark.parametrize(
    ("row", "cases"),
    [(row_3, {"1,000 × 1": 0.85, "1 × 64": 0.65}), (row_4, {"64 × 1": 0.5})],
    ids=["row 3", "row 4"],
)
def test_packed_blocks_are_held_to_the_serial_bound(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Bundle,
    row: Callable[[Targets, Effort, Callable[[str], None]], list[Line]],
    cases: dict[str, float],
) -> None:
    """Each case has its target for the share of the bound, with the rates of both beside, and none against the plain server."""
    runs = {"server": [_run(60)], "echo": [_run(300)], "plain": [_run(20)], "kernel": [_run(150)]}
    monkeypatch.setattr(packed, "_measure", lambda *_: runs)
    lines = row(Targets(NOBODY, NOBODY, NOBODY, bundle), SMOKE, lambda _: None)
    assert {each.case: (each.target, each.bound) for each in lines if each.target is not None} == {
        case: (target, "at least") for case, target in cases.items()
    }
    assert [each.value for each in lines if each.target is not None] == pytest.approx([0.6] * len(cases))
    assert {(each.beside["echo steps/s"], each.beside["kernel steps/s"]) for each in lines if each.target} == {(300, 150)}
    assert {each.case: each.value for each in lines if each.target is None} == {
        f"{case}, against a plain server": 3.0 for case in cases
    }
