"""Lines of the log about sessions that gave up their id to another."""

from __future__ import annotations

from structlog.testing import capture_logs

from stepstream_server.engine.ports import TurnReport
from stepstream_server.telemetry import Replacements
from support.clock import FakeClock
from support.observer import Reports

BETWEEN_LINES = 1.0


def test_the_log_names_the_model_and_the_ids() -> None:
    """The first replacement is told at once, as a warning; the turn goes on to the observer behind."""
    behind = Reports()
    replacements = Replacements("ecg", 2, behind, FakeClock())
    report = TurnReport(replaced=["int:7"])
    with capture_logs() as lines:
        replacements.turn(report)
    assert lines == [
        {"event": "sequence_replaced", "log_level": "warning", "model": "ecg", "version": 2, "count": 1, "ids": ["int:7"]}
    ]
    assert behind.turns == [report]


def test_turns_without_replacements_say_nothing() -> None:
    """However many there are."""
    with capture_logs() as lines:
        replacements = Replacements("ecg", 2, Reports(), FakeClock())
        for _ in range(3):
            replacements.turn(TurnReport())
    assert lines == []


def test_one_line_a_second_tells_how_many_there_were() -> None:
    """Those of the second since the last line are in the next one, which comes with any turn; none is told twice."""
    clock = FakeClock()
    replacements = Replacements("ecg", 2, Reports(), clock)
    with capture_logs() as lines:
        replacements.turn(TurnReport(replaced=["a"]))
        replacements.turn(TurnReport(replaced=["b", "c"]))
        clock.advance(BETWEEN_LINES / 2)
        replacements.turn(TurnReport(replaced=["d"]))
        assert len(lines) == 1
        clock.advance(BETWEEN_LINES / 2)
        replacements.turn(TurnReport())
        clock.advance(BETWEEN_LINES)
        replacements.turn(TurnReport())
    assert [(line["count"], line["ids"]) for line in lines] == [(1, ["a"]), (3, ["b", "c", "d"])]


def test_a_line_stays_short() -> None:
    """A flood is counted in full, and named in part."""
    clock = FakeClock()
    replacements = Replacements("ecg", 2, Reports(), clock)
    ids = [f"int:{number}" for number in range(1, 1001)]
    with capture_logs() as lines:
        replacements.turn(TurnReport(replaced=["int:0"]))
        for first in range(0, 1000, 100):
            replacements.turn(TurnReport(replaced=ids[first : first + 100]))
        clock.advance(BETWEEN_LINES)
        replacements.turn(TurnReport())
    assert lines[1]["count"] == 1000
    assert lines[1]["ids"] == ids[:10]
