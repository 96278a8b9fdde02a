"""The applications of docs/web.md do what the page says, with requests, sockets, texts, time that runs out, and updates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from anyio.from_thread import BlockingPortal
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import stepstream
from stepstream import Client, SessionInfo, SessionNotFound, StepStreamError
from stepstream._events import Kind
from stepstream_server.app import Bound
from support.background import Background, in_background
from support.gated_server import running
from support.pages import ADDRESS, ROOT, blocks
from support.server import close_sessions, serving

MODELS = ROOT / "models"
PAGE = ROOT / "docs" / "web.md"
REQUESTS, HELD, MOVING, SEEING = blocks(PAGE, "python")
OTHER_ADDRESS = "127.0.0.1:8201"  # of the page's second server


def loaded(block: str, address: str, other: str = "") -> ModuleType:
    """A block as the module that a web server imports."""
    module = ModuleType("app")
    exec(block.replace(ADDRESS, address).replace(OTHER_ADDRESS, other), module.__dict__)
    return module


@pytest.fixture(scope="module")
def shared() -> Iterator[Background[Bound]]:
    """A server of the shipped models."""
    with in_background(serving(MODELS)) as server:
        yield server


@pytest.fixture
def address(shared: Background[Bound]) -> Iterator[str]:
    """Where it listens, without sessions."""
    yield shared.value.listen
    shared.wait(close_sessions(shared.value.listen))


@pytest.fixture
def ecg_alone(tmp_path: Path) -> Path:
    """A folder of one bundle, which a server of a test's own reads sooner than all."""
    (tmp_path / "ecg").symlink_to(MODELS / "ecg")
    return tmp_path


def looked_up(address: str, model: str, id: str) -> SessionInfo:
    """What the server knows of a session."""

    async def ask() -> SessionInfo:
        async with Client(address) as client:
            return await client.get_session(model, id)

    return asyncio.run(ask())


def test_a_request_is_repeated_without_harm(address: str) -> None:
    """The same PUT has the same answer, and the state moves once; the next number goes on, another one is refused."""
    with TestClient(loaded(REQUESTS, address).app) as web:
        first = web.put("/beds/7/readings/0", json=[-1.2])
        assert first.json()["ahead"] < 0
        assert web.put("/beds/7/readings/0", json=[-1.2]).json() == first.json()
        assert web.put("/beds/7/readings/1", json=[-1.24]).status_code == 200
        gaps = [web.put(f"/beds/{bed}/readings/9", json=[-1.3]) for bed in (7, 8)]
    assert [gap.status_code for gap in gaps] == [409, 409]
    assert [gap.json()["error"] for gap in gaps] == [f"step 9 came where step {expected} was expected" for expected in (2, 0)]
    session = looked_up(address, "ecg", "bed-7")
    assert (session.next_seq, session.attached, session.idle_ttl) == (2, False, 600)


def test_the_client_is_the_applications(address: str) -> None:
    """It works in that event loop alone, and is closed with it."""
    app = loaded(REQUESTS, address).app
    with TestClient(app), pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(app.state.client.models())
    with pytest.raises(RuntimeError, match="not open"):
        asyncio.run(app.state.client.models())


def test_requests_that_race_both_succeed(address: str) -> None:
    """Eight at once open one session and take one step."""
    with TestClient(loaded(REQUESTS, address).app) as web, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: web.put("/beds/8/readings/0", json=[-1.2]), range(8)))
    assert {each.status_code for each in answers} == {200}
    assert len({each.text for each in answers}) == 1
    assert looked_up(address, "ecg", "bed-8").next_seq == 1


@pytest.mark.parametrize("body", ["[1.0, 2.0]", "[NaN]", '["much"]', "[1.0"])
def test_what_cannot_be_a_reading_is_refused(address: str, body: str) -> None:
    """With what is wrong about it, and no session is opened for it."""
    with TestClient(loaded(REQUESTS, address).app) as web:
        refused = web.put("/beds/9/readings/0", content=body)
    assert refused.status_code == 422
    assert refused.json()["error"]
    with pytest.raises(SessionNotFound):
        looked_up(address, "ecg", "bed-9")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("SessionMoved", 410),
        ("SessionInUse", 409),
        ("NonFiniteState", 409),
        ("AnswerDiscarded", 409),
        ("BlockTooLarge", 422),
        ("SessionCapacity", 503),
        ("ServerDraining", 503),
        ("ConnectionLost", 503),
        ("ModelNotReady", 503),
        ("DeadlineExceeded", 504),
    ],
)
async def test_an_error_has_a_status(kind: str, status: int) -> None:
    """The nearest class counts, and advice on when to try again is in whole seconds."""
    error: StepStreamError = getattr(stepstream, kind)("so it is", retry_delay=0.02)
    response = await loaded(REQUESTS, "").refused(None, error)
    assert (response.status_code, response.headers["Retry-After"]) == (status, "1")
    error = getattr(stepstream, kind)("so it is")
    assert "Retry-After" not in (await loaded(REQUESTS, "").refused(None, error)).headers


def test_what_the_user_cannot_help_is_an_error_of_the_application(address: str) -> None:
    """It reaches whoever reads the log."""
    app = loaded(REQUESTS.replace('"ecg"', '"egc"'), address).app
    with TestClient(app) as web, pytest.raises(stepstream.ModelNotFound):
        web.put("/beds/7/readings/0", json=[-1.2])


def test_time_runs_out(ecg_alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request gets 504 and is repeated; over a socket the next step waits for the one before, and goes in behind it."""
    with in_background(running(ecg_alone, monkeypatch)) as server:
        address, gate = server.value.bound.listen, server.value.gate
        with TestClient(loaded(REQUESTS, address).app) as web, TestClient(loaded(HELD, address).app) as other:
            web.put("/beds/7/readings/0", json=[-1.2])
            with other.websocket_connect("/beds/a/live") as socket:
                gate.close()
                socket.send_json([-1.2])
                gate.reached.wait()  # it is being computed
                assert "0.5 s" in socket.receive_json()["error"]
                assert web.put("/beds/7/readings/1", json=[-1.24]).status_code == 504
                gate.open()
                assert web.put("/beds/7/readings/1", json=[-1.24]).status_code == 200
                socket.send_json([-1.24])
                assert "ahead" in socket.receive_json()
        assert (looked_up(address, "ecg", "bed-7").next_seq, looked_up(address, "ecg", "a").next_seq) == (2, 2)


def test_a_socket_comes_back_to_its_session(address: str) -> None:
    """What is no reading does it no harm; a second socket takes it over, and what was left is found again."""
    with TestClient(loaded(HELD, address).app) as web:
        with web.websocket_connect("/beds/a/live") as first:
            first.send_json([-1.2, 0.0])
            assert "expected float32 [1]" in first.receive_json()["error"]
            first.send_json([-1.2])
            assert "ahead" in first.receive_json()
            with web.websocket_connect("/beds/a/live") as second:
                second.send_json([-1.24])
                assert "ahead" in second.receive_json()
                first.send_json([-1.29])
                with pytest.raises(WebSocketDisconnect) as closed:
                    first.receive_json()
            assert (closed.value.code, closed.value.reason) == (1011, "SESSION_TAKEN")
        with web.websocket_connect("/beds/a/live") as third:
            third.send_json([-1.29])
            assert "ahead" in third.receive_json()
    session = looked_up(address, "ecg", "a")
    assert (session.next_seq, session.attached) == (3, False)


def test_a_text_goes_on_where_it_was_left(address: str) -> None:
    """Each request attaches, writes, and lets the session go."""
    with TestClient(loaded(HELD.replace("temperature=0.7", "temperature=0.0"), address).app) as web:
        told = web.post("/texts/mine", content="I grew up in Pakistan. We ate soup and bread. I speak fluent")
        assert (told.status_code, told.text.split()) == (200, ["Urdu"])
        before = looked_up(address, "memory", "mine")
        assert not before.attached
        assert web.post("/texts/mine", content=" I speak fluent").text.split() == ["Urdu"]
        assert looked_up(address, "memory", "mine").next_seq > before.next_seq


def test_a_browser_that_goes_away_ends_its_text(address: str) -> None:
    """After the first piece. The session is let go, and stands where it stood before the prompt."""
    app = loaded(HELD.replace("max_steps=200", "max_steps=1_000_000").replace('stop="."', ""), address).app
    with TestClient(app) as web:
        assert portal(web).call(told_until_gone, app, "/texts/mine", b"I grew up")
        session = looked_up(address, "memory", "mine")
        while session.attached:  # letting go is on its way
            session = looked_up(address, "memory", "mine")
    assert session.next_seq == 0


def portal(web: TestClient) -> BlockingPortal:
    """Into the event loop in which the application runs."""
    assert web.portal is not None
    return web.portal


async def told_until_gone(app: Any, path: str, body: bytes) -> bool:
    """A POST by a browser that leaves at the first piece of the answer. Returns whether there was one."""
    gone, asked = asyncio.Event(), False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if asked:
            await gone.wait()
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        if message.get("body"):
            gone.set()

    scope = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "asgi": {"spec_version": "2.3"}}
    await app(scope, receive, send)
    return gone.is_set()


def test_sessions_are_moved_before_their_server_stops(address: str, ecg_alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket goes on at the other server, and what it held is closed when it ends."""
    with in_background(running(ecg_alone, monkeypatch)) as leaving:
        app = loaded(MOVING, leaving.value.bound.listen, address).app
        with TestClient(app) as web:
            with web.websocket_connect("/live") as socket:
                socket.send_json([-1.2])
                socket.receive_json()
                leaving.call(leaving.value.stop.set)
                assert leaving.wait(asyncio.wait_for(leaving.value.code, 60)) == 0
                socket.send_json([-1.24])
                assert len(socket.receive_json()) == 21
                (session,) = app.state.sessions
                assert looked_up(address, "ecg", session.id).next_seq == 2
            assert not app.state.sessions
    with pytest.raises(stepstream.SessionClosed):
        looked_up(address, "ecg", session.id)


def test_readiness_follows_the_server(address: str) -> None:
    """Before there is a session, and while one is held; what happened is counted."""
    module = loaded(SEEING, address)
    with TestClient(module.app) as web:
        assert (web.get("/ready").status_code, web.get("/ready").json()) == (200, {})
        portal(web).call(one_session, module.app.state.client)
        assert module.app.state.client.connected
        assert web.get("/ready").json() == {"connected": 1}
    with TestClient(loaded(SEEING.replace("ClientOptions(", "ClientOptions(connect_seconds=0.05, "), "127.0.0.1:1").app) as web:
        away = web.get("/ready")
        assert (away.status_code, "connect_seconds" in away.json()["error"]) == (503, True)


def test_every_event_is_told() -> None:
    """The page's last table has each kind."""
    table = PAGE.read_text().rpartition("| event |")[2]
    assert [kind for kind in get_args(Kind) if f"`{kind}`" not in table] == []


async def one_session(client: Client) -> None:
    """Opened and closed."""
    async with client.open_session("ecg"):
        pass
