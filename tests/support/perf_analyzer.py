"""Tests that run `perf_analyzer`: skipped with a reason where it is not to be had, but never in CI."""

from __future__ import annotations

import os

import pytest

from benchmarks.fetch_perf_analyzer import missing


def require_perf_analyzer() -> None:
    """Skips the test that asks, and says what is missing, where the program cannot run."""
    why = missing()
    if why and os.environ.get("CI") != "true":
        pytest.skip(why)
    assert not why, why
