"""Tokens of the command: by flag, file and environment, and never printed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stepstream.cli.app import app
from stepstream.cli.options import Options
from support.command import stepstream
from support.doorkeeper import Doorkeeper
from support.servicer import FakeServicer, serving

TOKEN = "token-of-mine"


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """A server that lets in those who show TOKEN."""
    async with serving(FakeServicer(), interceptors=[Doorkeeper(TOKEN)]) as bound:
        yield bound


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A file that has it."""
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return str(path)


async def test_a_token_comes_from_a_file_a_flag_or_the_environment(address: str, file: str) -> None:
    """Flags stand before a command or after it, and count more than the environment."""
    for done in (
        await stepstream(address, "--token-file", file, "models", env={"STEPSTREAM_TOKEN": "wrong"}),
        await stepstream(address, "models", "--token", TOKEN, env={"STEPSTREAM_TOKEN": "wrong"}),
        await stepstream(address, "models", env={"STEPSTREAM_TOKEN": TOKEN}),
        await stepstream(address, "stream", "level", "--token-file", file, stdin="1\n2\n"),
    ):
        assert done.code == 0, done.stderr
        assert done.stdout
        assert TOKEN not in done.stdout + done.stderr


async def test_who_is_not_let_in_is_told_what_to_do(address: str) -> None:
    """With exit code 1, for people and as JSON, without the token."""
    for flags in ((), ("--token", "wrong-one")):
        told = await stepstream(address, "models", *flags)
        assert (told.code, told.stdout) == (1, "")
        assert told.stderr == (
            "stepstream: authorization: expected a token that is known here [UNAUTHENTICATED]\n"
            "Give the token that your server's operator gave you, by --token-file or STEPSTREAM_TOKEN.\n"
        )
    as_json = await stepstream(address, "stream", "level", "--json", "--token", "wrong-one", stdin="1\n")
    assert (as_json.code, as_json.error["reason"]) == (1, "UNAUTHENTICATED")
    assert "wrong-one" not in as_json.stderr


async def test_an_empty_file_is_told_by_name(tmp_path: Path) -> None:
    """It is told like a file that cannot be used, with exit code 1."""
    empty = tmp_path / "empty"
    empty.touch()
    told = await stepstream("127.0.0.1:1", "models", "--token-file", str(empty), "--json")
    assert told.code == 1
    assert told.error["message"].startswith(f"token_file {empty}: expected 1 to 4096 printable ASCII characters")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--token", "two words"], "--token: expected 1 to 4096 printable ASCII characters without spaces, got 9 characters"),
        (["--token", ""], "--token: expected 1 to 4096 printable ASCII characters without spaces, got 0 characters"),
        (["--token", "one", "--token-file", __file__], "--token and --token-file: expected one of them, got both"),
    ],
)
def test_what_cannot_be_used_is_wrong_usage(flags: list[str], expected: str) -> None:
    """Told before a connection is tried, and without the token."""
    result = CliRunner().invoke(app, ["models", *flags])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"stepstream: {expected}")
    assert "two words" not in result.stderr


def test_a_variable_that_cannot_be_sent_is_told_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty one is none."""
    monkeypatch.setenv("STEPSTREAM_TOKEN", "two words")
    result = CliRunner().invoke(app, ["models", "--json"])
    assert (result.exit_code, json.loads(result.stderr)["error"]["reason"]) == (2, "USAGE")
    assert "two words" not in result.stderr
    monkeypatch.setenv("STEPSTREAM_TOKEN", "")
    assert Options.merged({}, {}) == Options()


def test_help_and_options_show_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one in the environment either; the flag says that others see it."""
    monkeypatch.setenv("STEPSTREAM_TOKEN", TOKEN)
    for arguments in (["--help"], ["models", "--help"], ["top", "--help"]):
        told = CliRunner().invoke(app, arguments).stdout
        assert TOKEN not in told
        assert "Lists of processes show it" in " ".join(told.split())
    merged = Options.merged({}, {})
    assert merged.token == TOKEN
    assert TOKEN not in repr(merged)
