"""Live streams: what is offered follows from the bare graph, and the most that is in time is found."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from benchmarks import live
from benchmarks.frames import FramesResult
from benchmarks.live import bare_row_seconds, most_in_time, tell
from benchmarks.timing import SMOKE
from stepstream_server.bundles import Bundle, load
from support.programs import BUNDLES

FARED = FramesResult(10, 10, 0, 0, 0, 0, p50=0.01, p99=0.02, p999=0.03, lag_p50=0.0, lag_p99=0.001, seconds=1.0,
                     generator_cpu=0.1, server_cpu=0.7)  # fmt: skip


@pytest.mark.parametrize(("holds", "expected"), [(7, 0), (8, 8), (100, 96), (1000, 304)])
def test_most_streams_in_time_are_found_by_halving(holds: int, expected: int) -> None:
    """In steps of eight, up to what is offered at most; how the most fared is told too."""
    tried = []

    def run(streams: int) -> FramesResult:
        tried.append(streams)
        return dataclasses.replace(FARED, offered=streams, p99=0.9 if streams <= holds else 1.1)

    found, fared = most_in_time(run, 1.0, 310, 8)
    assert found == expected
    assert fared.offered == (expected or 8)
    assert len(tried) <= 7


def test_bare_graphs_of_cells_and_programs_are_timed(bundle: Bundle) -> None:
    """Seconds of a row."""
    for each in (bundle, load(BUNDLES / "mlp_head")):
        assert 0 < bare_row_seconds(each, SMOKE) < 1


def test_medians_are_told_and_a_late_generator() -> None:
    """A round whose generator was behind is no measurement."""
    late = dataclasses.replace(FARED, lag_p99=0.01)
    rounds = [
        live.Round(micros * 1e-6, 320, fared, 320, fared, 40, FARED) for micros, fared in ((60, FARED), (70, FARED), (80, late))
    ]
    lines = list(tell(rounds, 0.032))
    assert lines[:2] == ["time step         32.0 ms", "bare graph        70.0 µs a row, in a block of 64"]
    assert lines[2] == (
        "gateways of 64    320 sessions: p50 10.0 ms, p99 20.0 ms, p99.9 30.0 ms; server 70% of a core, generator 10%; "
        "invalid in 1 of 3 rounds: the generator was behind its schedule"
    )


def test_command_measures_a_model_that_says_its_time_step(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the folder of a bundle to figures; a model without a time step is refused."""
    monkeypatch.setattr(sys, "argv", ["live", str(bundle.path), "--rounds", "1", "--seconds", "0.1", "--share", "0.00001"])
    with pytest.raises(SystemExit):
        live.main()
    assert "expected a model that says its time step" in capsys.readouterr().err
    file = Path(bundle.path) / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"time_step_seconds": 0.05}))
    live.main()
    out = capsys.readouterr().out
    assert "time step         50.0 ms" in out
    assert "gateways of 64" in out
