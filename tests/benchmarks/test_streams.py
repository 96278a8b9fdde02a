"""What is said of single steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest

from benchmarks import streams
from benchmarks.drive import Targets
from benchmarks.load import Plan, Result
from benchmarks.process import Server
from benchmarks.streams import row_2
from benchmarks.timing import SMOKE
from stepstream_server.bundles import Bundle

NOBODY = Server("nowhere", 0)


def _run(rate: int) -> Result:
    """One second of so many steps, from a generator that is hardly busy."""
    return Result(rate, rate, 1.0, 0.1, 0.1, 0.001, 0.002, 0.003)


def test_many_streams_have_a_target_for_either_way_that_they_come(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> None:
    """64 streams are held to one share of the echo's rate over as many connections and to another over one; fewer to none."""

    def compare(plans: Mapping[str, Plan], *_: int) -> dict[str, list[Result]]:
        return {name: [_run(60 if name == "server" else 100)] for name in plans}

    monkeypatch.setattr(streams, "compare", compare)
    targets = Targets(NOBODY, NOBODY, NOBODY, bundle)
    lines = row_2(targets, dataclasses.replace(SMOKE, streams=(16,)), lambda _: None)
    assert [(each.case, each.value, each.target) for each in lines if "plain" not in each.case] == [
        ("64 streams, 64 connections", 0.6, 0.72),
        ("64 streams, 1 connection", 0.6, 0.6),
        ("16 streams, 16 connections", 0.6, None),
    ]
    assert [each.met for each in lines if each.target] == [False, True]
