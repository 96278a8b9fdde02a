"""docs/client.md names everything that users of the client can call and set."""

from __future__ import annotations

from dataclasses import fields

import pytest

from stepstream import Client, ClientOptions, Session, SessionGroup
from support.pages import ROOT

PAGE = (ROOT / "docs" / "client.md").read_text()


@pytest.mark.parametrize("kind", [Client, Session, SessionGroup])
def test_every_public_name_is_mentioned(kind: type) -> None:
    """A method that the guide leaves out is one that nobody finds."""
    missing = [name for name in dir(kind) if not name.startswith("_") and name not in PAGE]
    assert set(missing) <= {"count", "index"}  # of every sequence


def test_every_option_is_listed() -> None:
    """The table of options has each field."""
    table = PAGE.partition("## Options")[2].partition("```")[0]
    assert [each.name for each in fields(ClientOptions) if f"`{each.name}`" not in table] == []
