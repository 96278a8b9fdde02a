"""The page on errors, as a page: whole, in form, and in accord with both tables of the code.

Whether it is true is tried over the wire, in `tests/promises/test_errors_over_the_wire.py`.
"""

from __future__ import annotations

import stepstream
from stepstream._translation import BY_CODE, BY_REASON
from stepstream_server.errors import Reason
from stepstream_server.rpc.boundary import STATUS
from support.errors import page

ROWS = page.rows()
WITH_REASON = [row for row in ROWS if row.reason]


def test_every_line_of_the_table_is_read() -> None:
    """None is passed over for its form."""
    table = page.PAGE.read_text().partition("| reason |")[2].partition("\n\n")[0]
    assert len(ROWS) == len(table.splitlines()) - 2  # the header and the line below it


def test_every_reason_has_its_status() -> None:
    """The server's table says the same; what only ever ends a session has no place in it."""
    names = {reason.name: status.name for reason, status in STATUS.items()}
    assert {(row.reason, row.code) for row in WITH_REASON if row.reason in names} == set(names.items())
    assert {row.reason for row in WITH_REASON} - {reason.name for reason in Reason} == {"SESSION_TAKEN", "SESSION_DETACHED"}


def test_every_reason_has_its_exception() -> None:
    """The client's table says the same, and so does the class."""
    for row in WITH_REASON:
        kind = getattr(stepstream, row.exception)
        assert (kind.default_reason, kind.default_code.name) == (row.reason, row.code)
        assert BY_REASON.get(row.reason, kind) is kind


def test_what_an_unknown_reason_becomes_is_listed() -> None:
    """Exception by code, as the client has it."""
    assert page.codes() == {code.name: kind.__name__ for code, kind in BY_CODE.items()}


def test_every_situation_is_told_once_and_has_advice() -> None:
    """In sentences."""
    assert len({row.situation for row in ROWS}) == len(ROWS)
    assert all(row.situation.endswith(".") and row.advice.endswith(".") for row in ROWS)


def test_roots_are_roots() -> None:
    """Each class that the page names is there."""
    words = page.PAGE.read_text().split("## Beside the table")[1].split("`")[1::2]
    classes = [word for word in words if word[0].isupper() and not word.isupper()]
    assert len(classes) > 20
    assert set(classes) <= set(stepstream.__all__)
