"""How cores are counted and divided."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepstream_server import cores


@pytest.mark.parametrize(
    ("limit", "usable"),
    [("max 100000", 8), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8), ("odd", 8)],
)
def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, usable: int) -> None:
    """As whole cores, at least one; where there is none, or none that can be read, those of the machine."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert cores.usable_cores(tmp_path / "cpu.max") == usable
    assert cores.usable_cores(tmp_path / "none") == 8


@pytest.mark.parametrize(("usable", "workers", "threads"), [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 2, 2), (8, 4, 4), (64, 4, 60)])
def test_half_of_many_cores_speak_grpc(monkeypatch: pytest.MonkeyPatch, usable: int, workers: int, threads: int) -> None:
    """The others compute; where cores are few one process does both on all of them."""
    monkeypatch.setattr(cores, "usable_cores", lambda: usable)
    assert (cores.default_workers(), cores.default_threads()) == (workers, threads)
