"""Where the server is looked for, and how soon a client says that nobody is there: addresses, proxies, loops and processes."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator

import pytest
from grpc import StatusCode

from stepstream import Client, ClientOptions, ConnectionLost, ModelNotReady, Outputs, Unavailable
from stepstream._reach import Reach, host_of, is_loopback, target_of
from support.background import in_background
from support.servicer import FakeServicer, serving

QUICK = ClientOptions(connect_seconds=0.05, reconnect_first_seconds=0.001, reconnect_most_seconds=0.01)
UNREACHED = Unavailable("connection refused")


@pytest.fixture
def nowhere() -> str:
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


# Nobody there -------------------------------------------------------------------------------------------------------


async def test_a_wrong_address_is_told_soon(nowhere: str) -> None:
    """By the first call and by the first session, with a word on how to wait for a server that is still starting."""
    expected = f"no server answers at {nowhere}: .*connect_seconds=60. waits for a server that is still starting"
    async with Client(nowhere, QUICK) as client:
        with pytest.raises(Unavailable, match=expected):
            await client.models()
        with pytest.raises(ConnectionLost, match=expected):
            await client.open_session("level")


def test_a_client_tries_a_server_that_never_answered_for_two_seconds() -> None:
    """Long enough for a network that is slow, and no second beyond `reconnect_seconds`."""
    for options, seconds in ((ClientOptions(), 2.0), (ClientOptions(reconnect_seconds=1.0), 1.0), (QUICK, 0.05)):
        assert Reach("host:1", options).backoff().left() == pytest.approx(seconds)
    reach = Reach("host:1", ClientOptions())
    reach.heard()
    assert reach.backoff().left() == pytest.approx(60.0)


async def test_a_server_that_is_still_starting_can_be_waited_for(nowhere: str) -> None:
    """By a session as by a call, and longer than calls may take once it is there; nobody hints at what is set already."""
    patient = ClientOptions(
        connect_seconds=60, call_timeout_seconds=0.5, reconnect_first_seconds=0.001, reconnect_most_seconds=0.01
    )
    async with Client(nowhere, patient) as client:
        opening = asyncio.ensure_future(client.open_session("level").__aenter__())
        models = asyncio.ensure_future(client.models())
        done, _ = await asyncio.wait([opening, models], timeout=0.6)
        assert not done
        async with serving(FakeServicer(), local=nowhere):
            assert ((await opening).model.name, len(await models)) == ("level", 3)
    assert Reach(nowhere, patient).explained(UNREACHED) is UNREACHED


async def test_a_server_that_has_answered_is_waited_for_longer(nowhere: str) -> None:
    """The one that went away meanwhile may be restarting: patience is `reconnect_seconds` again."""
    options = ClientOptions(connect_seconds=1e-9, reconnect_first_seconds=0.001, reconnect_most_seconds=0.01)
    async with Client(nowhere, options) as client:
        async with serving(FakeServicer(), local=nowhere):
            await client.models()
        models = asyncio.ensure_future(client.models())
        await asyncio.wait([models], timeout=0.01)
        async with serving(FakeServicer(), local=nowhere):
            assert len(await models) == 3


async def test_a_server_that_refuses_has_answered(address: str, servicer: FakeServicer) -> None:
    """One that warms up says so: it is there."""
    servicer.not_ready = 100
    options = ClientOptions(connect_seconds=0.001, reconnect_seconds=0.2, reconnect_first_seconds=0.001)
    async with Client(address, options) as client:
        with pytest.raises(ModelNotReady):
            await client.open_session("level")


# Proxies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("localhost:8101", "localhost"),
        ("10.0.0.1:8101", "10.0.0.1"),
        ("[::1]:8101", "::1"),
        ("::1", "::1"),
        ("dns:///models.example:8101", "models.example"),
        ("dns:models.example:8101", "models.example"),
        ("ipv4:127.0.0.1:8101", "127.0.0.1"),
        ("unix:/run/stepstream.sock", ""),
    ],
)
def test_the_host_of_an_address(address: str, host: str) -> None:
    """In every form that gRPC takes."""
    assert host_of(address) == host


def test_this_machine_is_known() -> None:
    """By name, by any number of it, and by a socket in its file system."""
    assert all(map(is_loopback, ["localhost", "app.localhost", "127.0.0.1", "127.8.8.8", "::1", ""]))
    assert not any(map(is_loopback, ["models.example", "10.0.0.1", "localhost.example", "::2"]))


def test_loopback_is_dialled_directly_whatever_proxy_is_set() -> None:
    """A proxy's loopback is the proxy."""
    script = "import sys; from stepstream import sync; print(len(sync.Client(sys.argv[1]).models()))"
    proxy = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "PATH": ""}
    with in_background(serving(FakeServicer())) as server:
        command = [sys.executable, "-c", script, server.value]
        assert subprocess.run(command, capture_output=True, text=True, env=proxy, timeout=60).stdout == "3\n"


def test_elsewhere_the_error_names_the_proxy() -> None:
    """Without its password, which may stand in the variable."""
    environment = {"http_proxy": "http://me:hidden@gate.example:8080", "no_proxy": "intern.example, 10.0.0.1"}
    told = Reach("models.example:8101", ClientOptions(), environment).explained(UNREACHED)
    assert type(told) is Unavailable
    assert "through the proxy gate.example:8080 of http_proxy; no_proxy names hosts that are not" in told.message
    assert "hidden" not in told.message
    for address in ("models.intern.example:8101", "10.0.0.1:8101", "localhost:8101"):
        assert "proxy" not in Reach(address, ClientOptions(), environment).explained(UNREACHED).message


def test_what_the_server_says_itself_is_left_as_it_is() -> None:
    """And so is what has nothing to do with reaching it."""
    reach = Reach("models.example:8101", ClientOptions(), {"http_proxy": "http://gate.example:8080"})
    for error in (Unavailable("draining", reason="SERVER_DRAINING"), Unavailable("odd", code=StatusCode.INTERNAL)):
        assert reach.explained(error) is error


# Loops and processes ------------------------------------------------------------------------------------------------


async def next_of(outputs: AsyncGenerator[Outputs, None]) -> Outputs:
    """The first answer of a stream."""
    return await anext(outputs)


async def test_a_client_and_its_sessions_refuse_to_work_on_another_loop(client: Client) -> None:
    """At once, with the cause, and before a number is spent; in its own loop all goes on."""
    session, group = await client.open_session("level"), await client.open_sessions("level", 2)

    async def elsewhere() -> None:
        for work in (
            session.step(1),
            session.chunk([1]),
            session.reset(),
            session.fork(),
            session.close(),
            group.step([1, 1]),
            group.close(),
            session.export(),
            next_of(session.stream([1])),
            client.open_session("level"),
            client.models(),
        ):
            with pytest.raises(RuntimeError, match="another event loop"):
                await work

    await asyncio.to_thread(lambda: asyncio.run(elsewhere()))
    assert (session.next_seq, (await session.step(1))["count"][0]) == (0, 1)
    assert (await group.step([1, 1]))["count"][:, 0].tolist() == [1, 1]


def test_a_client_may_be_entered_in_one_loop_after_the_other() -> None:
    """Each time it is a new connection; also its `draining` can be waited for."""
    with in_background(serving(FakeServicer())) as server:
        client = Client(server.value)

        async def use() -> float:
            async with client, client.open_session("level") as session:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.draining.wait(), 0.01)
                return float((await session.step(1))["count"][0])

        assert [asyncio.run(use()), asyncio.run(use())] == [1.0, 1.0]


FORKED = """
import asyncio, os, sys
from stepstream import Client, sync
from stepstream._service import Service
Service._process = os.getpid()  # as after a first client; without gRPC, whose own handlers may end the child before
child = os.fork()
if child == 0:
    async def use():
        async with Client(sys.argv[1]):
            pass
    for make in (lambda: asyncio.run(use()), lambda: sync.Client(sys.argv[1]).models()):
        try:
            make()
        except RuntimeError as error:
            print(error, flush=True)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(sync.Client(sys.argv[1]).models()))
"""


def test_a_forked_process_is_told_that_grpc_did_not_come_along() -> None:
    """Also where its parent had closed its client before: a call would hang or crash. The parent goes on."""
    with in_background(serving(FakeServicer())) as server:
        command = [sys.executable, "-c", FORKED, server.value]
        first, second, parent = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert "forked from one that has had a client" in first == second
    assert parent == "0 3"


async def test_the_first_of_several_addresses_that_answers_is_used() -> None:
    """Whenever the connection breaks, they are looked through anew."""
    first, second = FakeServicer(), FakeServicer()
    async with serving(second) as there:
        async with serving(first) as here, Client(f"{here},{there}", QUICK) as client:
            await client.open_session("level", id="a")
            assert (list(first.sessions), list(second.sessions)) == (["a"], [])
        async with Client(f"{here},{there}", QUICK) as client:
            await client.open_session("level", id="b")
            assert list(second.sessions) == ["b"]


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("box:1", "box:1"),
        ("10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
        ("[::1]:1,[::2]:1", "ipv6:[::1]:1,[::2]:1"),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
    ],
)
def test_several_addresses_are_one_target(address: str, target: str) -> None:
    """In gRPC's words for lists; one address stays as it is."""
    assert target_of(address) == target
