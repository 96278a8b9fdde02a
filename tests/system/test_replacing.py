"""Certificates and tokens that are replaced again and again under load: nobody who follows them loses or repeats a step."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream import TLS, Client, ClientOptions, Session, StepStreamError, Unauthenticated, Unavailable
from stepstream_proto.v1.model_pb2 import ListModelsRequest
from stepstream_proto.v1.model_pb2_grpc import ModelServiceStub
from stepstream_server.access import entry, make_token
from support.certificates import OPENSSL, Authority, Files, shown
from support.planted import found, plant_text
from support.tenants import bearer
from support.workers import PATIENCE, working_server

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl makes the certificates")

TURNS, MANY_TURNS = 20, 200  # in each of which a certificate and a token are replaced
CLIENTS = 4
IN_FLIGHT = 8  # steps of a session; as many as its window holds would leave others no time
PROBES = 8  # connections that come to either of two workers
READINGS = np.random.default_rng(19).standard_normal((1000, 2)).astype(np.float32)  # what sessions are fed, over and over


def put(path: Path, text: str) -> None:
    """Puts another file in its place."""
    (coming := path.with_suffix(".coming")).write_text(text)
    coming.rename(path)


class Tokens:
    """Tokens of one tenant, one after the other. The server knows the one that clients show, and the next."""

    def __init__(self, folder: Path) -> None:
        self.tenants, self.shown = folder / "tenants.toml", folder / "token"
        self.now, self._next = (plant_text(make_token()) for _ in range(2))
        self._write()

    def replace(self) -> str:
        """Clients find the next one, which the server knows already; then it forgets the one before, which this returns."""
        before, self.now, self._next = self.now, self._next, plant_text(make_token())
        self._write()
        return before

    def _write(self) -> None:
        put(self.shown, self.now)
        put(self.tenants, "\n".join(entry("a", each) for each in (self.now, self._next)))


@dataclass
class Walk:
    """A session that is stepped without pause, and what becomes of its client's streams."""

    client: Client
    session: Session
    answers: list[bytes] = field(default_factory=list)
    over: bool = False
    lost: list[StepStreamError | None] = field(default_factory=list)  # why streams broke
    replayed: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))  # once for each that took its place
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def _readings(self) -> AsyncIterator[NDArray[np.float32]]:
        for number in itertools.count():
            while number >= len(self.answers) + IN_FLIGHT:
                self.answered.clear()
                await self.answered.wait()
            if self.over:
                return
            yield READINGS[number % len(READINGS)]

    async def step(self) -> None:
        """Until it is over, as many steps in flight as there may be; then all are answered."""
        async for outputs in self.session.stream(self._readings()):
            self.answers.append(outputs["output"].tobytes())
            self.answered.set()

    async def watch(self) -> None:
        """Notes the events of its client."""
        async for event in self.client.events():
            if event.kind == "lost":
                self.lost.append(event.error)
            elif event.kind == "replayed":
                self.replayed.release()

    async def goes_on(self) -> None:
        """Waits until its stream has been replayed once more, and another step is answered after that. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            await self.replayed.acquire()
            self.answered.clear()
            await self.answered.wait()


@asynccontextmanager
async def walking(address: str, options: ClientOptions) -> AsyncIterator[Walk]:
    """A client with one session that is stepped until the block ends."""
    async with Client(address, options) as client, client.open_session("small") as session, asyncio.TaskGroup() as tasks:
        walk = Walk(client, session)
        watching, stepping = tasks.create_task(walk.watch()), tasks.create_task(walk.step())
        yield walk
        walk.over = True
        await stepping
        watching.cancel()
        assert session.next_seq == len(walk.answers)
        assert (await client.get_session("small", session.id)).next_seq == len(walk.answers)


@asynccontextmanager
async def probing(address: str, credentials: grpc.ChannelCredentials) -> AsyncIterator[list[ModelServiceStub]]:
    """Callers with connections of their own, which last."""
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.secure_channel(address, credentials, [("grpc.use_local_subchannel_pool", 1)])
            )
            for _ in range(PROBES)
        ]
        yield [ModelServiceStub(each) for each in channels]


async def all_hear(probes: list[ModelServiceStub], token: str, code: grpc.StatusCode) -> None:
    """Waits until each of them, showing the token, is answered so. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE):
        while (codes := set(await asyncio.gather(*(heard(each, token) for each in probes)))) != {code}:
            assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED}


async def heard(probe: ModelServiceStub, token: str) -> grpc.StatusCode:
    """How a call with this token ends."""
    call: Any = probe.ListModels(ListModelsRequest(), metadata=bearer(token))
    code: grpc.StatusCode = await call.code()
    return code


async def undisturbed(address: str, options: ClientOptions, steps: int) -> list[bytes]:
    """Outputs of a session that nothing happens to."""
    readings = np.resize(READINGS, (steps, 2))
    async with Client(address, options) as client, client.open_session("small") as session:
        return [each.tobytes() for each in (await session.chunk(readings))["output"]]


def flags(files: Files, client_ca: Path, tenants: Path) -> list[str]:
    """Of a server that asks for certificates and tokens."""
    tls = ["--door.tls_cert", str(files.chain_file), "--door.tls_key", str(files.key_file)]
    return ["--log.format", "json", *tls, "--door.tls_client_ca", str(client_ca), "--door.tokens", str(tenants)]


@pytest.mark.timeout(300)
async def test_certificates_and_tokens_are_replaced_under_load(models: Path, tmp_path: Path, long_run: bool) -> None:
    """In turn, while sessions are stepped without pause: new connections are shown the new certificate. Whoever shows the old
    token is refused, streams that began with it end, and are replayed with the new one. In the end each session's outputs are,
    bit for bit, those of one that nobody disturbed, and the log tells no token."""
    authority, tokens = Authority(tmp_path), Tokens(tmp_path)
    files, own = authority.issue("first"), authority.issue("gateway")
    options = ClientOptions(tls=TLS(root_certificates=authority.chain, private_key=own.key, certificate_chain=own.chain))
    options = replace(options, token_file=tokens.shown)
    credentials = grpc.ssl_channel_credentials(authority.chain, own.key, own.chain)
    turns = MANY_TURNS if long_run else TURNS
    asked = flags(files, authority.chain_file, tokens.tenants)
    async with working_server(models, 2, *asked) as server, AsyncExitStack() as stack:
        address = server.server.listen
        walks = [await stack.enter_async_context(walking(address, options)) for _ in range(CLIENTS)]
        probes = await stack.enter_async_context(probing(address, credentials))
        for turn in range(turns):
            files.replace(authority.issue(f"certificate-{turn}"))
            seen = await asyncio.gather(*(shown(address, authority, own) for _ in range(PROBES)))
            assert set(seen) == {f"certificate-{turn}"}
            before = tokens.replace()
            await all_hear(probes, before, grpc.StatusCode.UNAUTHENTICATED)
            await all_hear(probes, tokens.now, grpc.StatusCode.OK)
            await asyncio.gather(*(walk.goes_on() for walk in walks))
        await stack.aclose()
        expected = await undisturbed(address, options, max(len(walk.answers) for walk in walks))
        for walk in walks:
            assert walk.answers == expected[: len(walk.answers)]
            assert len(walk.lost) == turns  # a stream for each token that was taken away
            assert {type(each) for each in walk.lost} <= {Unauthenticated, Unavailable}  # who is just writing may not hear why
        server.server.process.terminate()
        code, log = await server.server.ended()
    assert code == 0
    assert found(log.encode()) == []
    events = Counter(json.loads(line)["event"] for line in log.splitlines())
    assert events["tenants_taken"] == turns
    assert events["certificate_taken"] >= turns  # by each worker that was asked for it
