"""Lines that are requests, and lines that are not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stepstream_server.admin.requests import CloseSessions, ListSessions, RequestError, parse


def test_what_is_not_given_has_a_default() -> None:
    """A listing is of all, a closing of one session of no tenant."""
    assert parse(b'{"command": "list"}') == ListSessions(model=None, tenant=None)
    assert parse(b'{"command": "close", "model": "m", "session": "a"}') == CloseSessions(model="m", tenant="", session="a")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"", "request: Invalid JSON"),
        (b"\xff\n", "request: Invalid JSON"),
        (b"[" * 60_000, "request: Invalid JSON"),
        (b"[]", "request: Input should be"),
        (b"{}", "request: Unable to extract tag using discriminator 'command'"),
        (b'{"command": "sing"}', "request: Input tag 'sing' found using 'command' does not match"),
        (b'{"command": "list", "secret": "s3cret"}', "list.secret: Extra inputs are not permitted"),
        (b'{"command": "list", "model": 7}', "list.model: Input should be a valid string"),
        (b'{"command": "close", "session": "a"}', "close.model: Field required"),
        (b'{"command": "close", "model": "m"}', "close: expected either session or all"),
        (b'{"command": "close", "model": "m", "session": "a", "all": true}', "close: expected either session or all"),
        (b'{"command": "close", "model": "m", "session": "other/a"}', "close.session: String should match pattern"),
        (json.dumps({"command": "list", "tenant": "x" * 129}).encode(), "list.tenant: String should have at most 128"),
    ],
)
def test_a_malformed_line_is_told_by_field(line: bytes, told: str) -> None:
    """In a line of bounded length that repeats no value of a field."""
    with pytest.raises(RequestError) as raised:
        parse(line)
    assert str(raised.value).startswith(told)
    assert "s3cret" not in str(raised.value)
    assert len(str(raised.value)) < 600


def test_many_faults_are_a_short_message() -> None:
    """A line may have thousands of unknown fields with long names."""
    fields: dict[str, Any] = {f"{number}{'x' * 1000}": 1 for number in range(50)}
    with pytest.raises(RequestError) as raised:
        parse(json.dumps({"command": "list", **fields}).encode())
    assert len(str(raised.value)) < 2600
