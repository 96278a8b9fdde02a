"""Every engine test runs twice: on a backend that computes at once, and on one that has two launches under way."""

from __future__ import annotations

import pytest

from support import backend


@pytest.fixture(autouse=True, params=[1, 2], ids=["depth 1", "depth 2"])
def depth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What backends say that do not say otherwise themselves."""
    monkeypatch.setattr(backend, "DEFAULT_DEPTH", request.param)
