"""Files that others published: skips a test where they were not fetched, but never in CI."""

from __future__ import annotations

import os

import pytest
from programs.fetch import missing

from benchmarks.fetching import Package


def require(*packages: Package) -> None:
    """Skips the test that asks where files of a package of `examples/programs` are not there."""
    demand(missing(*packages))


def demand(why: str) -> None:
    """Skips the test that asks if something is missing, and says what."""
    if why and os.environ.get("CI") != "true":
        pytest.skip(why)
    assert not why, why
