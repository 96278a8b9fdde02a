"""`stepstream-server admin` and a running server, with workers and without: two tenants, and the owner who looks after both."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest

from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, session_pb2, session_pb2_grpc
from stepstream_server.access import entry, make_token
from support.process import COMMAND, ServerProcess, environment, server_process
from support.wire import StreamRequest, u32

TENANTS = ("a", "b")


class Tenants:
    """A file of tenants, and a token of each."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "tenants.toml"
        self.tokens = {tenant: make_token() for tenant in TENANTS}
        self.write("[tenants.a]\nsessions = 5\n")

    def write(self, beginning: str) -> None:
        self.file.write_text(beginning + "\n".join(entry(tenant, token) for tenant, token in self.tokens.items()))

    def metadata(self, tenant: str) -> list[tuple[str, str]]:
        """Metadata by which a call of the tenant proves itself."""
        return [("authorization", f"Bearer {self.tokens[tenant]}")]


@pytest.fixture
def tenants(tmp_path: Path) -> Tenants:
    """Two of them, of which one has a limit."""
    return Tenants(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the socket."""
    return tmp_path / "admin"


async def admin(*arguments: str, settings: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Runs the command: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *COMMAND,
        "admin",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environment(), **(settings or {})},
    )
    stdout, stderr = await process.communicate()
    return process.returncode or 0, stdout.decode(), stderr.decode()


async def rows(*arguments: str) -> list[dict[str, Any]]:
    """Rows that the command prints as JSON."""
    code, stdout, stderr = await admin(*arguments, "--json")
    assert (code, stderr) == (0, "")
    return [json.loads(line) for line in stdout.splitlines()]


class Held:
    """A stream of a tenant that holds a session of its."""

    def __init__(self, channel: grpc.aio.Channel, metadata: list[tuple[str, str]]) -> None:
        self._call = inference_pb2_grpc.InferenceServiceStub(channel).Stream(metadata=metadata)

    async def open(self, session_id: str) -> None:
        opening = inference_pb2.OpenOnStream(model="small", handles=u32([0]), ids=[session_id])
        await self._call.write(StreamRequest(open=opening))
        (attached,) = (await self.next()).attached.sessions
        assert attached.error.reason == ""

    async def next(self) -> inference_pb2.StreamResponse:
        message: inference_pb2.StreamResponse = await self._call.read()
        return message

    async def end(self) -> grpc.StatusCode:
        """Says that nothing more will come, and waits for the end."""
        await self._call.done_writing()
        while await self._call.read() is not grpc.aio.EOF:
            pass
        code: grpc.StatusCode = await self._call.code()
        return code


async def open_sessions(channel: grpc.aio.Channel, tenants: Tenants, ids: Mapping[str, list[str]]) -> None:
    """Opens sessions of these ids in each tenant, held by nobody."""
    service = session_pb2_grpc.SessionServiceStub(channel)
    for tenant, names in ids.items():
        for name in names:
            await service.OpenSession(session_pb2.OpenSessionRequest(model="small", id=name), metadata=tenants.metadata(tenant))


def audit(log: str) -> list[dict[str, Any]]:
    """The lines of administrators in a log."""
    return [line for line in map(json.loads, log.splitlines()) if line["event"] == "admin"]


async def drained(server: ServerProcess, path: Path) -> str:
    """Has the server end and returns what it logged."""
    assert await admin("drain", "--socket", str(path)) == (0, "draining\n", "")
    code, log = await server.ended()
    assert code == 0
    with pytest.raises(FileNotFoundError):
        os.stat(path)
    return log


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
async def test_the_owner_sees_and_ends_what_tenants_have(models: Path, tenants: Tenants, path: Path, workers: str) -> None:
    """Sessions of both, of which a stream holds one; then the server, which waits for the other stream as after SIGTERM."""
    flags = ["--workers", workers, "--door.tokens", str(tenants.file), "--admin", str(path)]
    async with server_process(models, *flags) as server, grpc.aio.insecure_channel(server.listen) as channel:
        assert stat.filemode(os.stat(path).st_mode) == "srw-------"
        await open_sessions(channel, tenants, {"a": ["one", "two"], "b": ["one"]})
        held, other = (Held(channel, tenants.metadata(tenant)) for tenant in TENANTS)
        await held.open("held")
        await other.open("other")

        socket = ("--socket", str(path))
        listed = await rows("list", *socket)
        assert [(each["tenant"], each["session"], each["attached"]) for each in listed] == [
            ("a", "one", False), ("a", "two", False), ("a", "held", True), ("b", "one", False), ("b", "other", True),
        ]  # fmt: skip
        assert [each["session"] for each in await rows("list", *socket, "--tenant", "b", "--model", "small")] == ["one", "other"]
        limits = {"rollouts": 0, "most_rollouts": None, "most_streams": None, "steps_per_second": None}
        model = {"model": "small", "version": 1}
        assert await rows("tenants", *socket) == [
            {"tenant": "a", **model, "sessions": 3, "most_sessions": 5, **limits},
            {"tenant": "b", **model, "sessions": 2, "most_sessions": None, **limits},
        ]

        close = ("close", *socket, "--model", "small", "--tenant", "a")
        assert await rows(*close, "--session", "held") == [{"tenant": "a", **model, "session": "held", "steps": 0}]
        assert (await held.next()).detached.reason == inference_pb2.DETACH_REASON_SESSION_CLOSED
        assert await held.end() is grpc.StatusCode.OK
        assert await admin(*close, "--session", "other") == (1, "", "there is no session 'other'\n"), "it is the other tenant's"
        assert [each["session"] for each in await rows(*close, "--all")] == ["one", "two"]
        assert [each["tenant"] for each in await rows("list", *socket)] == ["b", "b"]

        ending = asyncio.create_task(drained(server, path))
        assert (await other.next()).HasField("drain")
        assert [each["attached"] for each in await rows("list", *socket)] == [False, True], "it stays for a move"
        assert await other.end() is grpc.StatusCode.OK
        log = await ending
    assert [json.loads(line)["event"] for line in log.splitlines()][-1] == "drained"
    noted = audit(log)
    assert {each["uid"] for each in noted} == {os.getuid()}
    assert all(each["pid"] not in (0, os.getpid(), server.process.pid) for each in noted), "each command is a process of its own"
    wanted = {"model": "small", "tenant": "a"}
    assert [(each["command"], each["arguments"], each["outcome"]) for each in noted] == [
        ("list", {}, "done"),
        ("list", {"model": "small", "tenant": "b"}, "done"),
        ("tenants", {}, "done"),
        ("close", {**wanted, "session": "held"}, "done"),
        ("close", {**wanted, "session": "other"}, "there is no session 'other'"),
        ("close", {**wanted, "all": True}, "done"),
        ("list", {}, "done"),
        ("drain", {}, "done"),
        ("list", {}, "done"),
    ]
    assert not any(token in log for token in tenants.tokens.values())


@pytest.mark.slow
async def test_the_file_of_tenants_is_read_when_the_owner_says_so(models: Path, tenants: Tenants, path: Path) -> None:
    """A broken one is told and changes nothing; a mended one is taken. The socket is found by the environment."""
    found = {"STEPSTREAM_ADMIN": str(path)}
    async with server_process(models, "--workers", "0", "--door.tokens", str(tenants.file), "--admin", str(path)) as server:
        tenants.write("[tenants.a]\nsessions = -1\n")
        code, stdout, stderr = await admin("reload", settings=found)
        assert (code, stdout) == (1, "")
        assert stderr == f"{tenants.file}: tenants.a.sessions: Input should be greater than or equal to 0\n"
        (before, _) = await rows("tenants", "--socket", str(path))
        assert before["most_sessions"] == 5, "what it was"
        tenants.write("[tenants.a]\nsessions = 7\n")
        assert await admin("reload", settings=found) == (0, "taken: 2 tenants\n", "")
        (after, _) = await rows("tenants", "--socket", str(path))
        assert after["most_sessions"] == 7
        log = await drained(server, path)
    outcomes = [(each["command"], each["outcome"]) for each in audit(log)]
    assert outcomes[0] == ("reload", stderr.strip())
    assert outcomes[1:] == [("tenants", "done"), ("reload", "done"), ("tenants", "done"), ("drain", "done")]


@pytest.mark.slow
async def test_another_server_runs_at_the_socket(models: Path, path: Path) -> None:
    """The second one ends with a line that names the setting; the first goes on, for sessions of no tenant too."""
    flags = ["--workers", "0", "--admin", str(path)]
    async with server_process(models, *flags) as server, grpc.aio.insecure_channel(server.listen) as channel:
        second = await asyncio.create_subprocess_exec(
            sys.executable,
            *COMMAND,
            *("serve", "--models", str(models), "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", *flags),
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        _, stderr = await second.communicate()
        assert second.returncode == 1
        assert stderr.decode().splitlines()[-1] == f"admin: cannot listen on {path}: another server listens there"
        service = session_pb2_grpc.SessionServiceStub(channel)
        await service.OpenSession(session_pb2.OpenSessionRequest(model="small", id="bed-7"))
        code, table, _ = await admin("close", "--socket", str(path), "--model", "small", "--session", "bed-7")
        assert (code, table) == (0, "tenant  model  version  session  steps\n-       small  1        bed-7    0\n")
        await drained(server, path)
