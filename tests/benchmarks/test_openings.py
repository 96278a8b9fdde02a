"""The generator that opens and closes sessions."""

from __future__ import annotations

import pytest

from benchmarks.openings import OpeningsPlan, measure
from benchmarks.process import Server


@pytest.mark.parametrize("sessions", [0, 1, 100], ids=["unary", "one per message", "many per message"])
def test_callers_open_and_close_in_turn(echo: Server, sessions: int) -> None:
    """Each way goes on without end, and only whole pairs count."""
    result = measure(OpeningsPlan(echo.address, echo.pid, "model", 2, sessions, warm_up_seconds=0.0, seconds=0.05))
    assert result.sessions > 0
    assert result.sessions % max(sessions, 1) == 0
