"""Secrets that tests plant: that they would be found where they must not be, and that they are not found in a server's log."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from stepstream_server.access import make_token
from support import planted
from support.process import server_process

SECRET = bytes(range(100, 116))


@pytest.fixture(autouse=True)
def nothing_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that is planted here concerns another test."""
    monkeypatch.setattr(planted, "_planted", {})


@pytest.mark.parametrize("form", [SECRET, SECRET.hex(), base64.b64encode(SECRET), repr(SECRET), repr({"secret": SECRET})])
def test_a_secret_is_found_in_any_form(form: bytes | str) -> None:
    """Somebody might write it so."""
    planted.check(form)
    planted.plant(SECRET)
    with pytest.raises(AssertionError, match="secrets turned up"):
        planted.check(b"before %s after" % (form if isinstance(form, bytes) else form.encode()))


def test_a_token_is_found() -> None:
    """Whoever repeats what a call has shown."""
    token = planted.plant_text(make_token())
    planted.check("authorization: Bearer")
    with pytest.raises(AssertionError, match="secrets turned up"):
        planted.check(f"authorization: Bearer {token}")


@pytest.mark.parametrize("file", ["stdout", "stderr"])
async def test_what_a_server_process_writes_is_looked_through(tmp_path: Path, file: str) -> None:
    """Whoever reads it."""
    begins = """print('{"listening": "here", "metrics": "there"}')"""
    program = ("-c", f"import sys; {begins}; print({planted.plant(SECRET)!r}, file=sys.{file})")
    with pytest.raises(AssertionError, match="secrets turned up in what was written"):
        async with server_process(tmp_path, program=program) as server:
            await server.ended()
