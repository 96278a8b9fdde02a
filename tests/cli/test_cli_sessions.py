"""Commands about models and sessions, against a real server: what they do, print and refuse."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stepstream import Client, SessionInfo
from stepstream.cli import show
from support.command import SCRIPT, Done, environment, shell, stepstream

MODEL_FIELDS = {
    "name", "version", "cell", "inputs", "outputs", "states", "fingerprint", "time_step_seconds", "window_steps", "window_bytes",
    "description", "licence", "rollout_output", "rollout_temperature", "batching",
}  # fmt: skip
SESSION_FIELDS = {
    "model", "version", "id", "quarantined", "next_seq", "acked", "epoch", "pending_steps", "age", "idle", "idle_ttl", "attached",
    "slot", "durable", "durable_seq", "stored",
}  # fmt: skip
OWNED_FIELDS = {"model", "version", "id", "secret", "next_seq"}


async def test_models_are_listed(server: str) -> None:
    """For people a line each, for programs everything that is known."""
    told = await stepstream(server, "models")
    assert [line.split()[:3] for line in told.stdout.splitlines()[1:]] == [
        ["ecg", "1", "lstm"],
        ["pair", "1", "gru"],
        ["tokens", "1", "lstm"],
    ]
    assert "mv[1]" in told.stdout
    records = (await stepstream(server, "models", "--json")).document
    assert all(set(record) == MODEL_FIELDS for record in records)
    assert records[1]["inputs"] == [
        {"name": "x", "dtype": "float32", "shape": [2], "limit": None, "range": None, "text": None, "description": ""}
    ]
    assert records[2]["inputs"][0]["limit"] == 5


def test_a_session_is_shown_with_where_it_is_and_how_far_behind() -> None:
    """Durable ones: in memory or in the store alone, and the steps that are not in the store yet."""
    plain = SessionInfo("ecg", 1, "a", False, 9, 9, 0, 0, 1.0, 1.0, 60.0, True, 3)
    durable = replace(plain, id="b", durable=True, durable_seq=7)
    stored = replace(durable, id="c", durable_seq=9, stored=True, attached=False)
    lines = [line.split() for line in show.sessions([plain, durable, stored], as_json=False).splitlines()]
    assert " ".join(lines[0]) == "SESSION MODEL VERSION STATUS WHERE STEPS PENDING LAG AGE IDLE SLOT"
    assert [[line[0], *line[3:8], line[-1]] for line in lines[1:]] == [
        ["a", "held", "memory", "9", "0", "-", "3"],
        ["b", "held", "memory", "9", "0", "2", "3"],
        ["c", "free", "store", "9", "0", "0", "-"],
    ]


async def test_sessions_are_listed(server: str, client: Client) -> None:
    """All of them or those of a model, with steps and who holds them; more than --limit are hinted at."""
    async with client.open_session("ecg", id="bed-7") as session, client.open_session("pair", id="gauge"):
        await session.step([-1.5])
        records = (await stepstream(server, "sessions", "--json")).document
        assert all(set(record) == SESSION_FIELDS for record in records)
        assert {record["id"]: (record["next_seq"], record["attached"]) for record in records} == {
            "bed-7": (1, True),
            "gauge": (0, True),
        }
        told = await stepstream(server, "sessions", "--model", "ecg")
        assert [line.split()[:6] for line in told.stdout.splitlines()[1:]] == [["bed-7", "ecg", "1", "held", "memory", "1"]]
        limited = await stepstream(server, "sessions", "--limit", "1", "--json")
        assert len(limited.document) == 1
        assert limited.stderr == "There are more than 1: --limit shows them.\n"
    assert (await stepstream(server, "sessions", "--json")).document == []


async def test_a_session_is_opened_and_stays(server: str, client: Client) -> None:
    """With the id asked for; its secret is its owner's, in the table and as JSON."""
    opened = (await stepstream(server, "open", "ecg", "--id", "bed-7", "--idle-ttl", "60", "--json")).document
    assert set(opened) == OWNED_FIELDS
    assert (opened["model"], opened["version"], opened["id"], opened["next_seq"]) == ("ecg", 1, "bed-7", 0)
    info = await client.get_session("ecg", "bed-7")
    assert (info.attached, info.idle_ttl) == (False, 60.0)
    async with client.attach_session("ecg", "bed-7", bytes.fromhex(opened["secret"])):
        pass
    id, secret, steps = (await stepstream(server, "open", "ecg")).stdout.splitlines()[1].split()
    assert steps == "0"
    async with client.attach_session("ecg", id, bytes.fromhex(secret)):
        pass


async def test_a_step_is_applied(server: str, client: Client) -> None:
    """Negative numbers are values, not flags; what is printed is what the client would get, to the bit."""
    async with client.open_session("ecg") as session:
        outputs = [await session.step([reading]) for reading in (-1.5, -1.25)]
    await stepstream(server, "open", "ecg", "--id", "bed-7")
    first = (await stepstream(server, "step", "ecg", "bed-7", "-1.5", "--json")).document
    np.testing.assert_array_equal(np.float32(first["outputs"]["ahead_9"]), outputs[0]["ahead_9"])
    second = await stepstream(server, "step", "ecg", "bed-7", "--outputs", "next[10],ahead_9", "-1.25")
    lines = [line.split() for line in second.stdout.splitlines()]
    assert [line[0] for line in lines] == ["next[10]", "ahead_9"]
    np.testing.assert_array_equal(np.array(lines[1][1:], np.float32), outputs[1]["ahead_9"])


async def test_a_numbered_step_can_be_repeated(server: str, client: Client) -> None:
    """With --seq the state moves once, and the answer is the same."""
    await stepstream(server, "open", "pair", "--id", "gauge")
    step = ("step", "pair", "gauge", "-1", "2", "--seq", "0")
    assert (await stepstream(server, *step)).stdout == (await stepstream(server, *step)).stdout != ""
    assert (await client.get_session("pair", "gauge")).next_seq == 1


async def test_a_fork_goes_on_by_itself(server: str, client: Client) -> None:
    """It gives what the original would have given, and the original has not moved."""
    await stepstream(server, "open", "ecg", "--id", "bed-7")
    await stepstream(server, "step", "ecg", "bed-7", "-1.5")
    forks = (await stepstream(server, "fork", "ecg", "bed-7", "--ids", "a,b", "--json")).document
    assert [set(fork) for fork in forks] == [OWNED_FIELDS] * 2
    assert [(fork["id"], fork["next_seq"]) for fork in forks] == [("a", 1), ("b", 1)]
    steps = [await stepstream(server, "step", "ecg", id, "-1.4") for id in ("a", "bed-7")]
    assert steps[0].stdout == steps[1].stdout != ""
    more = await stepstream(server, "fork", "ecg", "b", "--count", "3", "--at-seq", "1")
    assert len(more.stdout.splitlines()) == 4
    assert len([info async for info in client.list_sessions()]) == 6


async def test_a_session_moves_through_a_file(server: str, client: Client, tmp_path: Path) -> None:
    """Export with --move ends it here; what is imported goes on where it stood, with a new secret."""
    await stepstream(server, "open", "ecg", "--id", "bed-7")
    await stepstream(server, "step", "ecg", "bed-7", "-1.5")
    await stepstream(server, "fork", "ecg", "bed-7", "--ids", "twin")
    file = tmp_path / "bed-7.snapshot"
    file.write_text("older")
    written = (await stepstream(server, "export", "ecg", "bed-7", str(file), "--move", "--json")).document
    assert written == {"model": "ecg", "id": "bed-7", "bytes": file.stat().st_size, "file": str(file), "moved": True}
    assert os.listdir(tmp_path) == [file.name]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    gone = await stepstream(server, "step", "ecg", "bed-7", "-1.4", "--json")
    assert (gone.code, gone.error["reason"]) == (1, "SESSION_MOVED")
    imported = (await stepstream(server, "import", str(file), "--json")).document
    assert set(imported) == {*OWNED_FIELDS, "bitwise"}
    assert (imported["id"], imported["next_seq"], imported["bitwise"]) == ("bed-7", 1, True)
    steps = [await stepstream(server, "step", "ecg", id, "-1.4") for id in ("twin", "bed-7")]
    assert steps[0].stdout == steps[1].stdout != ""


async def test_a_session_moves_through_a_pipe(server: str, client: Client, tmp_path: Path) -> None:
    """`-` is stdout and stdin; what is told about it goes to stderr."""
    await stepstream(server, "open", "ecg", "--id", "bed-7")
    done = await shell(server, "stepstream export ecg bed-7 - | stepstream import - --id twin --json", tmp_path)
    assert done.document["id"] == "twin"
    assert done.stderr.startswith("wrote bed-7, ")
    assert {info.id async for info in client.list_sessions()} == {"bed-7", "twin"}


async def test_a_session_does_not_move_where_nothing_can_be_written(server: str, client: Client, tmp_path: Path) -> None:
    """The file is tried first: a session that has ended and whose snapshot is lost would be gone."""
    await stepstream(server, "open", "ecg", "--id", "bed-7")
    for file in (tmp_path, tmp_path / "none" / "bed-7.snapshot"):
        refused = await stepstream(server, "export", "ecg", "bed-7", str(file), "--move")
        assert refused.code == 2
        assert refused.stderr.startswith("stepstream: FILE: expected ")
    assert (await client.get_session("ecg", "bed-7")).id == "bed-7"


async def test_a_failed_export_leaves_an_older_file_alone(server: str, tmp_path: Path) -> None:
    """And nothing beside it."""
    file = tmp_path / "bed-7.snapshot"
    file.write_text("older")
    assert (await stepstream(server, "export", "ecg", "bed-7", str(file))).code == 1
    assert (os.listdir(tmp_path), file.read_text()) == ([file.name], "older")


async def test_what_a_stream_holds_needs_the_secret(server: str, client: Client, tmp_path: Path) -> None:
    """Without it exit code 1, reason and advice; with it, as flag or in the environment, all is well."""
    async with client.open_session("ecg", id="bed-7") as session:
        secret = session.secret.hex()
        for command in (("step", "ecg", "bed-7", "1"), ("fork", "ecg", "bed-7"), ("close", "ecg", "bed-7")):
            refused = await stepstream(server, *command)
            assert (refused.code, refused.stdout) == (1, "")
            assert refused.stderr.endswith(
                "[SESSION_IN_USE]\nA stream holds it: give its --secret, or wait until it is let go.\n"
            )
        assert (await stepstream(server, "step", "ecg", "bed-7", "1", "--secret", secret)).code == 0
        env = {"STEPSTREAM_SECRET": secret}
        assert (await stepstream(server, "export", "ecg", "bed-7", str(tmp_path / "snapshot"), env=env)).code == 0
        closed = await stepstream(server, "close", "ecg", "bed-7", "--json", env=env)
        assert closed.document == {"model": "ecg", "id": "bed-7", "next_seq": 1}


@pytest.mark.parametrize("command", [("step", "1"), ("fork",), ("export", "FILE"), ("close",)], ids=lambda command: command[0])
async def test_a_secret_is_needed_while_held_and_checked_whenever_given(
    server: str, client: Client, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """As the help of each command says, whether it is a flag or in the environment."""
    name, *rest = (each.replace("FILE", str(tmp_path / "snapshot")) for each in command)
    session = await client.open_session("ecg", id="bed-7")
    right, call = session.secret.hex(), (name, "ecg", "bed-7", *rest)

    async def reason(*flags: str, **env: str) -> str:
        done = await stepstream(server, *call, *flags, "--json", env=env)
        return "" if done.code == 0 else str(done.error["reason"])

    assert await reason() == "SESSION_IN_USE"
    assert await reason("--secret", "00") == await reason(STEPSTREAM_SECRET="00") == "SECRET_MISMATCH"
    assert await reason("--secret", "") == "USAGE"
    await session.detach()
    assert await reason("--secret", "00") == await reason(STEPSTREAM_SECRET="00") == "SECRET_MISMATCH"
    if name != "close":
        assert await reason() == await reason(STEPSTREAM_SECRET="") == ""
    assert await reason(STEPSTREAM_SECRET=right) == ""


async def test_help_says_when_a_secret_is_needed() -> None:
    """The same of all commands that may need it, and of `stream` that it always does."""
    for name in ("step", "fork", "export", "close"):
        told = " ".join((await stepstream("", name, "--help")).stdout.split())
        assert "needed while a stream holds the session, and checked whenever it is given" in told
    told = " ".join((await stepstream("", "stream", "--help")).stdout.split())
    assert "always needed with --session" in told


async def test_closing_what_is_closed_is_fine(server: str) -> None:
    """So that a script may be run again."""
    await stepstream(server, "open", "ecg", "--id", "bed-7")
    assert [(await stepstream(server, "close", "ecg", "bed-7")).code for _ in range(2)] == [0, 0]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("open", "eeg"), "MODEL_NOT_FOUND"),
        (("open", "ecg", "--model-version", "9"), "MODEL_NOT_FOUND"),
        (("open", "ecg", "--id", "taken"), "SESSION_EXISTS"),
        (("open", "ecg", "--id", "bed 7"), "INVALID_ARGUMENT"),
        (("step", "ecg", "nobody", "1"), "SESSION_NOT_FOUND"),
        (("step", "ecg", "taken", "1", "--secret", "00"), "SECRET_MISMATCH"),
        (("step", "ecg", "taken", "1", "--seq", "5"), "SEQUENCE_MISMATCH"),
        (("fork", "ecg", "taken", "--at-seq", "5"), "SEQUENCE_MISMATCH"),
        (("fork", "ecg", "taken", "--ids", "new,taken"), ""),
        (("export", "ecg", "nobody", "-"), "SESSION_NOT_FOUND"),
        (("import", "-"), "SNAPSHOT_CORRUPT"),
        (("close", "ecg", "nobody"), "SESSION_NOT_FOUND"),
        (("sessions", "--model", "eeg"), "MODEL_NOT_FOUND"),
        (("stream", "eeg"), "MODEL_NOT_FOUND"),
        (("stream", "ecg", "--session", "nobody", "--secret", "00"), "SESSION_NOT_FOUND"),
    ],
)
async def test_what_the_server_refuses_is_1_with_its_reason(command: tuple[str, ...], reason: str, server: str) -> None:
    """For programs as an object on stderr; nothing on stdout."""
    await stepstream(server, "open", "ecg", "--id", "taken")
    refused = await stepstream(server, *command, "--json")
    assert (refused.code, refused.stdout) == (1, "")
    assert set(refused.error) >= {"reason", "message", "advice", "retry_delay"}
    assert refused.error["reason"] == (reason or "SESSION_EXISTS")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("step", "ecg", "taken", "1", "2"), "VALUES: expected 1 (mv), got 2"),
        (("step", "ecg", "taken", "1_0"), "mv: expected a finite number, got '1_0'"),
        (("step", "ecg", "taken", "--jsn"), "mv: expected a finite number, got '--jsn'"),
        (("step", "ecg", "taken", "1", "--outputs", "nxt"), "--outputs: expected names among next[21]"),
        (("fork", "ecg", "taken", "--ids", "a,b", "--count", "3"), "--ids: expected as many as --count, 3, got 2"),
        (("import", "/nowhere/at-all"), "FILE: expected one that can be read, got /nowhere/at-all"),
        (("close", "ecg", "taken", "--secret", "secret"), "--secret: expected hexadecimal digits, got 6 other characters"),
        (("close", "ecg", "taken", "--secret", ""), "--secret: expected hexadecimal digits, got none"),
    ],
)
async def test_wrong_arguments_are_2(command: tuple[str, ...], message: str, server: str) -> None:
    """The message names the argument, what was expected and what came."""
    await stepstream(server, "open", "ecg", "--id", "taken")
    told = await stepstream(server, *command)
    assert (told.code, told.stdout) == (2, "")
    assert message in told.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("models",),
        ("sessions",),
        ("open", "ecg"),
        ("step", "ecg", "bed-7", "1"),
        ("stream", "ecg"),
        ("fork", "ecg", "bed-7"),
        ("export", "ecg", "bed-7", "-"),
        ("import", "-"),
        ("close", "ecg", "bed-7"),
    ],
)
async def test_no_server_is_3(command: tuple[str, ...]) -> None:
    """At once, in one message that says where it looked."""
    done: Done = await stepstream("127.0.0.1:1", *command)
    assert (done.code, done.stdout) == (3, "")
    assert "127.0.0.1:1" in done.stderr
    assert "Is the server running there?" in done.stderr
    assert "Traceback" not in done.stderr


async def test_whoever_read_the_output_has_gone_is_141(server: str) -> None:
    """Quietly, as other programs in a pipe."""
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        SCRIPT, "models", stdout=write, stderr=asyncio.subprocess.PIPE, env=environment(server)
    )
    os.close(write)
    _, stderr = await process.communicate()
    assert (process.returncode, stderr) == (141, b"")
