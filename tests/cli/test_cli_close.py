"""`stepstream close --all`: many sessions at once, after a question, without those that streams hold."""

from __future__ import annotations

import pytest

from stepstream import Client
from support.command import stepstream
from support.servicer import FakeServicer, serving
from support.terminal import CTRL_C, terminal


async def opened(client: Client, *keys: str) -> None:
    """Opens `MODEL/ID` each, which nobody holds."""
    for key in keys:
        model, _, id = key.partition("/")
        await (await client.open_session(model, id=id)).detach()


async def left(client: Client) -> list[str]:
    """Those that are open, as `MODEL/ID`."""
    return sorted([f"{info.model}/{info.id}" async for info in client.list_sessions()])


async def test_all_sessions_are_closed(server: str, client: Client) -> None:
    """Of a model, or of all; a secret in the environment, which is of one session, is of no account."""
    await opened(client, "ecg/a", "ecg/b", "pair/c", "pair/d")
    await client.step("ecg", "b", [1.0])
    done = await stepstream(server, "close", "--all", "--model", "ecg", "--yes", "--json", env={"STEPSTREAM_SECRET": "00"})
    assert (done.code, done.stderr) == (0, "")
    assert sorted(done.document["closed"], key=lambda each: each["id"]) == [
        {"model": "ecg", "id": "a", "next_seq": 0},
        {"model": "ecg", "id": "b", "next_seq": 1},
    ]
    assert done.document["held"] == []
    assert await left(client) == ["pair/c", "pair/d"]
    assert (await stepstream(server, "close", "--all", "--yes")).stdout == "closed 2 sessions\n"
    assert (await stepstream(server, "close", "--all", "--yes")).stdout == "closed 0 sessions\n"


@pytest.mark.parametrize(("idle", "closed"), [("1s", 2), ("1.1s", 0), ("1m", 0), ("0.0002h", 2)])
async def test_only_idle_ones_are_closed(idle: str, closed: int) -> None:
    """Those without a step for as long as --idle says: a server's whose sessions are all idle for a second."""
    servicer = FakeServicer()
    async with serving(servicer) as address, Client(address) as client:
        await opened(client, "level/a", "level/b")
        done = await stepstream(address, "close", "--all", "--idle", idle, "--yes")
        assert (done.code, done.stdout) == (0, f"closed {closed} sessions\n"), done.stderr
        assert len(await left(client)) == 2 - closed


async def test_held_ones_stay_and_are_named(server: str, client: Client) -> None:
    """Exit code 1: not everything that was meant is closed."""
    await opened(client, "ecg/a")
    async with client.open_session("ecg", id="bed-7"):
        done = await stepstream(server, "close", "--all", "--yes", "--json")
        assert (done.code, done.error["reason"]) == (1, "SESSION_IN_USE")
        assert done.error["message"] == "1 session held by streams left open: ecg bed-7"
        assert [each["id"] for each in done.document["closed"]] == ["a"]
        assert done.document["held"] == [{"model": "ecg", "id": "bed-7"}]
        assert await left(client) == ["ecg/bed-7"]


@pytest.mark.parametrize(
    ("answer", "said", "stay"), [("y\n", "closed 2 sessions", []), ("\n", "closed 0 sessions", ["ecg/a", "ecg/b"])]
)
async def test_it_asks_at_a_terminal(server: str, client: Client, answer: str, said: str, stay: list[str]) -> None:
    """How many there are, and whether they are meant; anything but yes is no."""
    await opened(client, "ecg/a", "ecg/b", "pair/c")
    async with terminal(server, "close", "--all", "--model", "ecg", "--idle", "0s") as screen:
        await screen.until("Close 2 sessions of ecg, idle for 0s or longer? [y/N] ")
        screen.type(answer)
        await screen.until(f"{said}\n")
        assert await screen.end() == 0
    assert await left(client) == [*stay, "pair/c"]


async def test_only_what_was_asked_about_is_closed(server: str, client: Client) -> None:
    """Somebody may take long to answer, and sessions come and go meanwhile."""
    await opened(client, "ecg/a", "ecg/b")
    async with terminal(server, "close", "--all") as screen:
        await screen.until("Close 2 sessions? [y/N] ")
        await client.close_session("ecg", "a")
        await opened(client, "ecg/new")
        screen.type("y\n")
        await screen.until("closed 1 session\n")
        assert await screen.end() == 0
    assert await left(client) == ["ecg/new"]


async def test_ctrl_c_closes_nothing(server: str, client: Client) -> None:
    """The question is no trap."""
    await opened(client, "ecg/a")
    async with terminal(server, "close", "--all") as screen:
        await screen.until("[y/N] ")
        screen.type(CTRL_C)
        assert await screen.end() == 130
    assert await left(client) == ["ecg/a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "MODEL SESSION: expected both, or --all"),
        (("ecg",), "MODEL SESSION: expected both, or --all"),
        (("ecg", "a", "--all", "--yes"), "MODEL SESSION: expected none with --all, which --model and --idle narrow down"),
        (("ecg", "a", "--yes"), "--model, --idle, --yes: expected --all with them"),
        (("--idle", "1h"), "--model, --idle, --yes: expected --all with them"),
        (("--all",), "--yes: expected it with --all, since there is no terminal to ask at"),
        (("--all", "--yes", "--idle", "90"), "--idle: expected a time such as 30s, 5m, 1h or 2d, got '90'"),
    ],
)
async def test_what_is_meant_must_be_clear(server: str, client: Client, arguments: tuple[str, ...], message: str) -> None:
    """Nothing is closed by mistake."""
    await opened(client, "ecg/a")
    done = await stepstream(server, "close", *arguments)
    assert (done.code, done.stdout, done.stderr) == (2, "", f"stepstream: {message}\n")
    assert await left(client) == ["ecg/a"]
