"""The page on errors says what server and client do."""

from __future__ import annotations

from pathlib import Path

import stepstream
from stepstream_server.errors import Reason
from stepstream_server.rpc.status import STATUS

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
ROWS = {
    cells[0]: cells[1:]
    for cells in ([cell.strip(" `") for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines())
    if len(cells) == 4 and cells[0].isupper()
}


def test_every_reason_is_there_with_its_status() -> None:
    """One row per reason, in their order, with the status that the server gives it."""
    assert [(reason, status) for reason, (status, _, _) in ROWS.items()] == [(each.name, STATUS[each].name) for each in Reason]


def test_every_exception_is_the_one_the_client_raises() -> None:
    """The class named stands for the reason, and for no other."""
    assert {reason: getattr(stepstream, name).default_reason for reason, (_, name, _) in ROWS.items()} == {
        reason: reason for reason in ROWS
    }


def test_every_reason_is_explained() -> None:
    """In a sentence at least."""
    assert all(meaning.endswith(".") for _, _, meaning in ROWS.values())
