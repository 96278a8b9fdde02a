"""Files that others published: skips a test where it was not fetched, but never in CI."""

from __future__ import annotations

import os

import pytest
from programs.fetch import missing

from benchmarks.fetching import Package


def require(*packages: Package) -> None:
    """Skips the test that asks, and says what is missing, where files of a package are not there."""
    why = missing(*packages)
    if why and os.environ.get("CI") != "true":
        pytest.skip(why)
    assert not why, why
