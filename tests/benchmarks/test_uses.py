"""Several models on one server: each is offered at its own rate, and figures of all of them are told."""

from __future__ import annotations

import dataclasses
import sys

import pytest

from benchmarks import uses
from benchmarks.frames import FramesResult
from benchmarks.uses import Round, tell, uses_of
from stepstream_server.bundles import Bundle

FARED = FramesResult(10, 10, 0, 0, 0, 0, p50=0.01, p99=0.02, p999=0.03, lag_p50=0.0, lag_p99=0.001, seconds=1.0,
                     generator_cpu=0.1, server_cpu=0.2)  # fmt: skip


def named(bundle: Bundle, name: str, step: float | None = None) -> Bundle:
    """A model under another name, with a time step."""
    return dataclasses.replace(bundle, spec=dataclasses.replace(bundle.spec, name=name, time_step_seconds=step))


def test_uses_step_at_their_natural_rates(bundle: Bundle) -> None:
    """Words at that of words, frames at that of the model; models that are none of the uses are left out."""
    found = uses_of([named(bundle, "vad", 0.032), named(bundle, "tide", 600.0), named(bundle, "sentiment")])
    assert [(use.name, use.period) for use in found] == [("sentiment", 0.2), ("vad", 0.032)]


def test_medians_are_told_and_a_late_generator() -> None:
    """A row for each use, and what all of them took."""
    slow = dataclasses.replace(FARED, p99=0.05, server_cpu=0.9, lag_p99=0.03)
    rounds = [Round({"vad": FARED}, {"vad": slow}), Round({"vad": FARED}, {"vad": slow}), Round({"vad": slow}, {"vad": FARED})]
    assert list(tell(rounds, {"vad": 1562.5})) == [
        "| `vad`, 1,562 steps/s; the generator was late in 3 of 6 runs | 10.0, 20.0 | 20% | 10.0, 50.0 |",
        "| all at once: 90% of a core, the generators 10% | | | |",
    ]


def test_command_measures_the_models_of_a_folder(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From bundles to two tables."""
    monkeypatch.setattr(uses, "MODELS", bundle.path.parent)
    monkeypatch.setattr(uses, "TEXTS", (bundle.spec.name,))
    monkeypatch.setattr(sys, "argv", ["uses", "--rounds", "1", "--seconds", "0.1"])
    uses.main()
    out = capsys.readouterr().out
    assert "| 50 single streams of each |" in out
    assert "| 200 sessions of one gateway of each |" in out
    assert out.count(f"| `{bundle.spec.name}`,") == 2
    assert f"| `{bundle.spec.name}` | " in out
