"""Malformed messages to every call, by a seed: each is answered or refused, and nobody else notices."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream import TLS, Client, ClientOptions, Session
from stepstream_server.rpc.boundary import Boundary, Handler
from support.certificates import OPENSSL, Authority
from support.front_door import front_door
from support.hostile.honest import Model
from support.hostile.malformed import Case, Malformed
from support.hostile.methods import offered
from support.hostile.models import SMALL, opened, write_models
from support.hostile.sending import Sender, connected
from support.hostile.watched import MIB, calm, watched
from support.tenants import Tenants, showing

ROUNDS = 5  # after each, what was opened by accident is closed
MESSAGES, MANY_MESSAGES = 20_000, 200_000
GROWTH = 64 * MIB  # of all processes after the first round
HONEST = "honest"
NOTHING = Model(SMALL, "FP32", bytes(4), [("nobody", bytes(16))], b"")  # as somebody knows it who was let in nowhere
FAULT = re.compile('stepstream_rpc_handled_total{.*code="(INTERNAL|UNKNOWN)".*')  # in the metrics
READINGS = np.random.default_rng(0).normal(size=(64, 1)).astype(np.float32)  # which the honest session is stepped with in turn


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a model of numbers and one of tokens."""
    return write_models(tmp_path_factory.mktemp("models"))


async def test_no_call_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Malformed messages go to every call that the server registers, streams as streams."""
    served: set[tuple[str, str, bool, bool]] = set()
    register = Boundary.add_registered_method_handlers

    def note(boundary: Boundary, service: str, handlers: dict[str, Handler]) -> None:
        served.update((service, name, each.request_streaming, each.response_streaming) for name, each in handlers.items())
        register(boundary, service, handlers)

    monkeypatch.setattr(Boundary, "add_registered_method_handlers", note)
    async with front_door():
        pass
    assert {(each.service, each.name, each.client_streams, each.server_streams) for each in offered()} == served


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 2])
async def test_malformed_messages_harm_nobody(models: Path, tmp_path: Path, workers: int, long_run: bool) -> None:
    """No process ends, no call or row is told of a fault of the server's, nothing goes wrong in the log, memory stays, an honest
    session beside them has the outputs that it has alone, and nothing is left behind."""
    messages = (MANY_MESSAGES if long_run else MESSAGES) // 2
    await harm_nobody(models, tmp_path, workers, messages, "--workers", str(workers))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(OPENSSL is None, reason="makes certificates with openssl")
async def test_malformed_messages_of_a_tenant_harm_nobody(models: Path, tmp_path: Path, long_run: bool) -> None:
    """Over TLS, with a token: as without, and another tenant's honest session beside them. Without a token nothing is served."""
    tenants, authority = Tenants(hostile={}, honest={}), Authority(tmp_path)
    files, file = authority.issue("server"), tmp_path / "tenants.toml"
    file.write_text(tenants.toml())
    tls = ["--door.tls_cert", str(files.chain_file), "--door.tls_key", str(files.key_file)]
    flags = ["--workers", "2", "--door.tokens", str(file), *tls]
    messages = (MANY_MESSAGES if long_run else MESSAGES) // 12
    await harm_nobody(models, tmp_path, 1, messages, *flags, tenants=tenants, roots=authority.chain)


async def harm_nobody(
    models: Path,
    tmp_path: Path,
    seed: int,
    messages: int,
    *flags: str,
    tenants: Tenants | None = None,
    roots: bytes | None = None,
) -> None:
    """Sends so many messages to a server with these flags, in rounds. tenants: whose callers are `hostile` and `honest`. roots:
    certificates of who vouches for the server, over TLS."""
    each_round, token = messages // ROUNDS, tenants.token("hostile") if tenants else ""
    flags = (*flags, "--engine.capacity", "2000", "--log.format", "json")
    tls = TLS(root_certificates=roots) if roots else None
    hostile, honest = (ClientOptions(tls=tls, token=tenants.token(name) if tenants else None) for name in ("hostile", "honest"))
    async with (
        watched(models, tmp_path / "log", *flags, options=hostile) as attacked,
        connected(attacked.server.listen, roots) as channel,
        Client(attacked.server.listen, honest) as client,
    ):
        sender = Sender(attacked.server.listen, token, roots)
        session = await client.open_session(SMALL, id=HONEST)
        memory: list[int] = []
        async with stepping(session) as outputs:
            for turn in range(ROUNDS):
                malformed = Malformed(ROUNDS * seed + turn, offered(), await opened(showing(channel, token=token)))
                await sender.send(cases(malformed, sender, (turn + 1) * each_round))
                assert not sender.wrong, "\n\n".join(sender.wrong[:3])
                await attacked.close_sessions(keep=[HONEST])
                memory.append(attacked.resident())
        if tenants:
            await refused_without_a_token(Sender(attacked.server.listen, roots=roots))
        await session.close()
        await attacked.at_rest()
        assert not [name for name in await attacked.metrics() if FAULT.fullmatch(name)]
        assert attacked.lives()
        assert memory[-1] < memory[0] + GROWTH
        assert outputs
        assert np.array_equal(np.array(outputs), await alone(client, len(outputs)))
        await client.close()
        calm(await attacked.ended_well())
    assert sender.by_method.keys() == {method.path for method in offered()}
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= sender.codes.keys()


async def refused_without_a_token(sender: Sender) -> None:
    """Whoever shows none is told so, whatever the bytes; health alone is served."""
    methods = [method for method in offered() if not method.service.startswith("grpc.health")]
    await sender.send(cases(Malformed(0, methods, [NOTHING]), sender, 500))
    assert not sender.wrong, "\n\n".join(sender.wrong[:3])
    assert sender.codes.keys() - {"INTERNAL"} == {
        "UNAUTHENTICATED"
    }  # which gRPC's client says of a stream that ends under a write


def cases(malformed: Malformed, sender: Sender, until: int) -> Iterator[Case]:
    """Makes cases until so many messages have been sent."""
    for number in itertools.count():
        if sender.messages >= until:
            return
        yield malformed.case(number)


@asynccontextmanager
async def stepping(session: Session) -> AsyncIterator[list[NDArray[np.float32]]]:
    """Steps a session until the block ends, one step after the other; yields its outputs, [1] each, which grow."""
    outputs: list[NDArray[np.float32]] = []
    done = asyncio.Event()

    async def step() -> None:
        while not done.is_set():
            outputs.append((await session.step(READINGS[len(outputs) % len(READINGS)]))["y"])

    steps = asyncio.create_task(step())
    try:
        yield outputs
    finally:
        done.set()
        await steps


async def alone(client: Client, steps: int) -> NDArray[np.float32]:
    """Outputs of a session with nobody beside it: [steps, 1]."""
    readings = READINGS[np.arange(steps) % len(READINGS)]
    async with client.open_session(SMALL) as session:
        return np.concatenate([(await session.chunk(each))["y"] for each in np.array_split(readings, steps // 500 + 1)])
