"""docs/errors.md is true: each of its rows is provoked over the wire, and nothing is provoked that is not there.

A scenario belongs to the row whose situation is its docstring, word for word.
"""

from __future__ import annotations

import pytest

import stepstream
from stepstream_server.errors import Reason
from support.errors import connection, copies, page, rollouts, server, sessions, steps, stored, tenants
from support.errors.heard import Failure, Heard
from support.errors.page import Row

ROWS = {row.situation: row for row in page.rows()}
ROOMS = (steps, sessions, copies, rollouts, server, stored, tenants, connection)
SCENARIOS = {scenario.__doc__: scenario for room in ROOMS for scenario in room.SCENARIOS}
AS_IT_TAKES = "retry when there are some"  # for as long as the server works out
NOT_GIVEN_YET = {"SESSION_EVICTED", "NOT_IMPLEMENTED"}
# What the Python client never provokes, cannot ask for, or does itself before anybody hears of it.
NOT_BY_THE_CLIENT = {
    "taken_away", "no_admin", "no_more_steps_of_a_tenant",
    "a_gap", "window_full", "too_late", "unknown_handle", "mixed_models", "handle_in_use", "unreadable", "unparsable",
    "too_large", "rolling", "another_beginning", "beyond_the_window", "no_such_token_to_begin_with", "outputs_too_large",
    "no_store", "store_down", "not_written", "session_lost", "unreadable_record", "of_another_model",
    "unread", "left_unread", "taken_over", "number_taken", "replaced", "replaced_elsewhere", "lost", "out_of_time",
    "unheard_of",
}  # fmt: skip


@pytest.mark.parametrize("situation", SCENARIOS, ids=lambda situation: SCENARIOS[situation].__name__)
async def test_a_situation_is_answered_as_the_page_says(situation: str) -> None:
    """On every way that the page names and on no other: code, reason, details, and what the Python client raises."""
    row, heard = ROWS[situation], Heard()
    await SCENARIOS[situation](heard)
    ways = {each.way for each in heard.failures}
    assert ways - {"client"} == row.carried_by
    assert ("client" not in ways) == (SCENARIOS[situation].__name__ in NOT_BY_THE_CLIENT)
    for failure in heard.failures:
        error = failure.error
        assert (error.reason, error.code.name, type(error).__name__) == (row.reason, row.code, row.exception)
        assert failure.details == expected_details(row, failure), failure.way
        assert error.message


def test_every_situation_has_a_scenario() -> None:
    """But for those that no server of today gives."""
    assert {row.situation for row in ROWS.values() if row.reason not in NOT_GIVEN_YET} == set(SCENARIOS)


def test_every_reason_is_on_the_page() -> None:
    """A new one cannot be forgotten here."""
    assert {row.reason for row in ROWS.values()} >= {reason.name for reason in Reason}


def test_every_exception_is_public() -> None:
    """It can be caught by its name."""
    assert {row.exception for row in ROWS.values()} <= set(stepstream.__all__)


def expected_details(row: Row, failure: Failure) -> frozenset[str]:
    """What of a row's details the way of a failure carries."""
    match failure.way:
        case "call" if AS_IT_TAKES in row.details:
            delay = failure.error.retry_delay
            return row.details - {AS_IT_TAKES} | {f"retry {(delay or 0) * 1000:.0f} ms"}
        case "call":
            return row.details
        case "client":  # it calls, streams, or sees for itself: whatever it heard of these
            return failure.details & (row.details | {"expectedSeq"})
        case "row" if row.reason != "HANDLE_UNKNOWN":
            return row.details - {"field"} | {"expectedSeq"}
        case "ended":
            return frozenset()
        case _:
            return row.details - {"field"}
