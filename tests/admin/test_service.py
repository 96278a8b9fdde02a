"""The socket of administrators in this process: who gets it, what strange connections are told, and what the log says of each."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs

from stepstream_server.admin import service
from stepstream_server.admin.client import AdminError, ask
from stepstream_server.admin.office import Office
from stepstream_server.admin.requests import LINE_BYTES, ListSessions, Request, Row
from stepstream_server.admin.service import administered
from stepstream_server.config import Settings
from stepstream_server.gate import Gate


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path at which the socket is to be."""
    return tmp_path / "admin"


@pytest.fixture
def stop() -> asyncio.Event:
    """The event that has the server stop."""
    return asyncio.Event()


@pytest.fixture
async def serving(path: Path, stop: asyncio.Event) -> AsyncIterator[None]:
    """Administrators of a server without models and tenants are served."""
    async with administered(str(path), Office([], Gate(""), stop)):
        yield


async def tell(path: Path, line: bytes) -> list[dict[str, Any]]:
    """Writes a line and reads the answer to its end."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line)
    told = [json.loads(each) async for each in reader]
    writer.close()
    return told


@pytest.mark.usefixtures("serving")
async def test_a_request_is_carried_out_and_logged(path: Path, stop: asyncio.Event) -> None:
    """With who asked, as the system knows it."""
    with capture_logs() as logged:
        assert await tell(path, b'{"command": "drain"}\n') == [{"row": {"draining": True}}, {"done": 1}]
    assert stop.is_set()
    line = {"event": "admin", "log_level": "info", "command": "drain", "arguments": {}, "outcome": "done", "rows": 1}
    assert logged == [{**line, "pid": os.getpid(), "uid": os.getuid()}]


@pytest.mark.usefixtures("serving")
@pytest.mark.parametrize(
    ("line", "command", "arguments", "error"),
    [
        (b'{"command": "close", "model": "m", "secret": "s3cret"}\n', "", {}, "close.secret: Extra inputs"),
        (b"x" * (LINE_BYTES + 2) + b"\n", "", {}, f"request: expected a line of at most {LINE_BYTES} bytes, got more"),
        (b'{"command": "reload"}\n', "reload", {}, "door.tokens: expected the path of a file of tenants"),
        (b'{"command": "list", "model": "m"}\n', "list", {"model": "m"}, "model: 'm' is not served; served: none"),
    ],
)
async def test_what_cannot_be_done_is_told(path: Path, line: bytes, command: str, arguments: dict[str, str], error: str) -> None:
    """To whoever asked, and in the log, which repeats nothing of a malformed request."""
    with capture_logs() as logged:
        (told,) = await tell(path, line)
    assert told["error"].startswith(error)
    (noted,) = logged
    assert (noted["command"], noted["arguments"], noted["outcome"]) == (command, arguments, told["error"])
    assert "s3cret" not in str(noted)


@pytest.mark.usefixtures("serving")
async def test_a_silent_connection_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has had its time, here none."""
    monkeypatch.setattr(service, "_SILENT_SECONDS", 0.0)
    assert await tell(path, b"") == [{"error": "request: expected a line within 0 s, got none"}]


@pytest.mark.usefixtures("serving")
async def test_connections_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound one is told so; when another has gone there is room again."""
    monkeypatch.setattr(service, "_CONNECTIONS", 1)
    reader, writer = await asyncio.open_unix_connection(path)
    with pytest.raises(AdminError, match="^all 1 connections of administrators are in use$"):
        await asyncio.to_thread(lambda: list(ask(path, ListSessions())))
    writer.write(b'{"command": "list"}\n')
    assert json.loads(await reader.read()) == {"done": 0}
    writer.close()
    assert await tell(path, b'{"command": "list"}\n') == [{"done": 0}]


class Endless(Office):
    """Never comes to the end of an answer."""

    def __init__(self, begun: asyncio.Event) -> None:
        self._begun = begun

    async def answer(self, request: Request) -> AsyncIterator[Row]:
        self._begun.set()
        while True:
            yield {"text": "x" * 100_000}


async def test_an_answer_that_nobody_reads_is_broken_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is closed, and the log tells."""
    begun, noted, note = asyncio.Event(), asyncio.Event(), service._note

    def and_tell(*told: Any) -> None:
        note(*told)
        noted.set()

    monkeypatch.setattr(service, "_note", and_tell)
    async with administered(str(path), Endless(begun)):
        with capture_logs() as logged:
            reader, writer = await asyncio.open_unix_connection(path, limit=2**16)
            writer.write(b'{"command": "list"}\n')
            await begun.wait()
            monkeypatch.setattr(service, "_SILENT_SECONDS", 0.0)
            await noted.wait()
            assert b'"done"' not in await reader.read()
            writer.close()
    assert [(each["command"], each["outcome"]) for each in logged] == [("list", "broken off")]


async def test_the_end_of_the_server_breaks_off_what_is_under_way(path: Path) -> None:
    """A connection that has asked nothing yet is closed as well; the socket is gone then."""
    with capture_logs() as logged:
        async with administered(str(path), Office([], Gate(""), asyncio.Event())):
            reader, writer = await asyncio.open_unix_connection(path)
            await tell(path, b'{"command": "list"}\n')  # the server has taken the other connection before this one
        assert await reader.read() == b""
        writer.close()
    assert [each["outcome"] for each in logged] == ["done", "broken off"]
    assert mode(path) == ""


def mode(path: Path) -> str:
    """Says what a file is and who may use it, as `ls` shows it; nothing where there is none."""
    return stat.filemode(path.stat().st_mode) if path.exists() else ""


@pytest.mark.usefixtures("serving")
async def test_only_its_owner_can_open_it(path: Path) -> None:
    """By the mode of the file."""
    assert mode(path) == "srw-------"


async def test_nobody_takes_the_socket_of_a_server_that_runs(path: Path, stop: asyncio.Event) -> None:
    """The error names the setting and the path; the other server goes on."""
    async with administered(str(path), Office([], Gate(""), stop)):
        with pytest.raises(OSError, match=f"^admin: cannot listen on {path}: another server listens there$"):
            async with administered(str(path), Office([], Gate(""), asyncio.Event())):
                pass
        assert await tell(path, b'{"command": "list"}\n') == [{"done": 0}]


async def test_the_socket_of_a_dead_server_is_replaced(path: Path, stop: asyncio.Event) -> None:
    """It is a file that refuses connections."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with administered(str(path), Office([], Gate(""), stop)):
        assert await tell(path, b'{"command": "list"}\n') == [{"done": 0}]


async def test_another_servers_socket_is_not_removed_at_the_end(path: Path, stop: asyncio.Event) -> None:
    """Somebody has removed this server's, and started another one."""
    async with administered(str(path), Office([], Gate(""), stop)):
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert mode(path).startswith("s")


@pytest.fixture
def file(path: Path) -> Path:
    """Something else at that path."""
    path.write_text("precious")
    return path


async def test_another_file_is_left_alone(file: Path, path: Path, stop: asyncio.Event) -> None:
    """A path that was meant for something else."""
    with pytest.raises(OSError, match=f"^admin: cannot listen on {path}: there is a file already, and no socket$"):
        async with administered(str(path), Office([], Gate(""), stop)):
            pass
    assert mode(file).startswith("-")


async def test_a_missing_folder_is_told(path: Path, stop: asyncio.Event) -> None:
    """It is one of the paths at which nothing can be bound."""
    with pytest.raises(OSError, match="^admin: cannot listen on .*: No such file or directory$"):
        async with administered(str(path / "below"), Office([], Gate(""), stop)):
            pass


def test_a_path_too_long_for_a_socket_is_refused() -> None:
    """Before anything starts; in bytes, since that is what the system counts."""
    assert Settings(admin="x" * 103).admin == "x" * 103
    with pytest.raises(ValidationError, match="which the system bounds to 103 bytes, got 104"):
        Settings(admin="ä" * 52)
