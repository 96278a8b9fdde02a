"""Two tenants on one server: whatever a caller of one does to reach what is the other's, it hears what it would hear if there
were no other, and the other notices nothing."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from stepstream_proto.v1 import inference_pb2, session_pb2, session_pb2_grpc
from stepstream_server.config import StoreSettings
from support.backend import FakeBackend
from support.front_door import CountingStream, FrontDoor, front_door
from support.generating import FOREVER, floats
from support.hostile.methods import offered
from support.hostile.models import SMALL, write_models
from support.oip.wire import InferCall, infer_request, sums_of
from support.planted import plant
from support.stepped_store import Contents
from support.tenants import Tenants, showing
from support.trespass import ATTACKS, CLIENT, LOOKUPS, NUMBER, OF_SESSIONS, Target, Trespasser
from support.wire import WireStream
from support.workers import working_server

HELD, ALONE, CLOSED, ROLLED, SEQUENCE = "held", "alone", "closed", "rolled", "sequence"
REQUEST, COPIED = "request", "copied"
SEQUENCE_NUMBER = 7
NONE = b"\0" * 16


def test_no_call_is_forgotten() -> None:
    """Every call that the server offers is tried, and no other."""
    assert ATTACKS.keys() == {method.path for method in offered()}


@dataclass
class Victim:
    """The first tenant's caller. Its session HELD is on a stream of a client that numbers them, ROLLED has a rollout under way,
    SEQUENCE and SEQUENCE_NUMBER are sequences; all have made a step."""

    front: FrontDoor
    stream: CountingStream
    sequences: InferCall
    rollout: Any
    secrets: dict[str, bytes]
    snapshot: bytes = b""
    page_token: str = ""
    steps: int = 1  # that each session has made

    async def go_on(self) -> None:
        """Steps all of them once more, each to the sum that it must have, with its own secret."""
        total = float(self.steps + 1)
        await self.stream.step([0], [self.steps], [1.0])
        assert await self.stream.sums(1) == {(0, self.steps): total}
        request = inference_pb2.StepRequest(model="counter", session_id=ALONE, secret=self.secrets[ALONE], seq=self.steps)
        request.inputs["x"].numbers.append(1.0)
        response = await self.front.inference.Step(request)
        assert (response.next_seq, list(response.outputs["sum"].numbers)) == (self.steps + 1, [total])
        for sequence in (SEQUENCE, SEQUENCE_NUMBER):
            await self.sequences.send(infer_request("counter", [1.0], sequence, step=self.steps))
            (told,) = await self.sequences.receive()
            assert (told.error_message, sums_of(told.infer_response)) == ("", [total])
        before = (await self.rollout.read()).next_seq
        assert (await self.rollout.read()).next_seq > before
        self.steps += 1

    async def still_has_all(self) -> None:
        """All that it has asked for is still there, and its own."""
        sessions = self.front.sessions
        again = await sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter", id=ALONE, request_id=REQUEST))
        assert (again.secret, again.session.next_seq) == (self.secrets[ALONE], self.steps)
        close = session_pb2.CloseSessionRequest(model="counter", id=CLOSED)
        assert (await sessions.CloseSession(close)).next_seq == 0  # closed already
        listed = await sessions.ListSessions(session_pb2.ListSessionsRequest())
        assert [each.id for each in listed.sessions] == [HELD, ALONE, ROLLED, SEQUENCE, f"int:{SEQUENCE_NUMBER}", COPIED]
        async with CountingStream(self.front.channel) as other:
            attached = await other.attach("counter", 0, ALONE, self.secrets[ALONE], acked=self.steps)
            assert attached.sessions[0].next_seq == self.steps


@asynccontextmanager
async def victim(front: FrontDoor) -> AsyncIterator[Victim]:
    """Moves in."""
    sessions, secrets = front.sessions, {}
    name = (("stepstream-client", CLIENT), ("stepstream-stream", str(NUMBER)))
    async with CountingStream(showing(front.channel, *name)) as stream:
        await stream.send_open("counter", [])
        await stream.receive()
        opening = inference_pb2.OpenOnStream(model="counter", handles=bytes(4), ids=[HELD])
        await stream.send(inference_pb2.StreamRequest(open=opening))
        secrets[HELD] = plant((await stream.receive()).attached.sessions[0].secret)
        for id, request_id in ((ALONE, REQUEST), (CLOSED, ""), (ROLLED, "")):
            opened = await sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter", id=id, request_id=request_id))
            secrets[id] = plant(opened.secret)
        await stream.step([0], [0], [1.0])
        await stream.sums(1)
        request = inference_pb2.StepRequest(model="counter", session_id=ALONE, seq=0)
        request.inputs["x"].numbers.append(1.0)
        await front.inference.Step(request)
        await sessions.CloseSession(session_pb2.CloseSessionRequest(model="counter", id=CLOSED))
        wanted = inference_pb2.GenerateRequest(model="counter", session_id=ROLLED, prompt=[floats(0)], max_steps=FOREVER)
        rollout = front.inference.Generate(wanted)
        await rollout.read()
        sequences = InferCall(front.channel)
        for sequence in (SEQUENCE, SEQUENCE_NUMBER):
            await sequences.send(infer_request("counter", [1.0], sequence, start=True))
            await sequences.receive()
        made = Victim(front, stream, sequences, rollout, secrets)
        secret = secrets[ALONE]
        fork = session_pb2.ForkSessionRequest(model="counter", id=ALONE, secret=secret, fork_ids=[COPIED], request_id="fork")
        await sessions.ForkSession(fork)
        export = session_pb2.ExportSessionRequest(model="counter", id=ALONE, secret=secret, request_id=REQUEST)
        made.snapshot = (await sessions.ExportSession(export)).snapshot
        listed = await sessions.ListSessions(session_pb2.ListSessionsRequest(model="counter", page_size=2))
        made.page_token = listed.next_page_token
        yield made
        rollout.cancel()


def targets(secrets: dict[str, bytes], snapshot: bytes, page_token: str) -> list[Target]:
    """All that there is to be had, with the secret, with none and with a wrong one."""
    return [
        Target("counter", id, secret, SEQUENCE_NUMBER, request_id, page_token, snapshot)
        for id, secret, request_id in (
            (HELD, secrets[HELD], REQUEST),
            (HELD, b"", "fork"),
            (ALONE, secrets[ALONE], REQUEST),
            (CLOSED, NONE, "fork"),
            (ROLLED, secrets[ROLLED], REQUEST),
            (SEQUENCE, b"", REQUEST),
        )
    ]


async def answers(front: FrontDoor, tenants: Tenants, role: str, aims: list[Target]) -> tuple[dict[str, list[str]], set[bytes]]:
    """All that is told by every call, each time to a tenant that has never asked for anything before; and the secrets and
    snapshots that came with it."""
    told, got = {}, set[bytes]()
    names = iter(name for name in tenants.access.tenants if name != "victim")
    for path, attacks in ATTACKS.items():
        if role == "admin" and path.endswith("/ModelStatistics"):
            continue  # which are of all tenants, and meant to be
        for attack, target in itertools.product(attacks, aims if path in OF_SESSIONS and role == "caller" else aims[:1]):
            who = Trespasser(front.of(tenants.token(next(names), role)).channel)
            await attack(who, target)
            told[f"{path} {attack.__name__} of {target.id} with {target.secret!r}"] = who.told
            got.update(who.got)
    return told, got


@pytest.mark.parametrize("role", ["caller", "admin"])
async def test_nobody_reaches_what_is_anothers(role: str) -> None:
    """Each call, with all that it could know of the other's sessions, is answered word for word as where they have never been;
    the other goes on as it was, bit for bit, and nothing that it has came to anybody else."""
    tenants = Tenants(victim={}, **{f"t{number}": {} for number in range(200)})
    made = partial(front_door, access=tenants.access, capacity=1000, backend=partial(FakeBackend, slots=5096))
    async with made() as front, victim(front.of(tenants.token("victim"))) as attacked:
        aims = targets(attacked.secrets, attacked.snapshot, attacked.page_token)
        told, got = await answers(front, tenants, role, aims)
        await attacked.go_on()
        await attacked.go_on()
        await attacked.still_has_all()
    async with made() as front:
        expected, _ = await answers(front, tenants, role, aims)
    assert got
    assert not got & {*attacked.secrets.values(), attacked.snapshot}
    for name, each in expected.items():
        assert each, name
        assert told[name] == each, name


async def test_nobody_reaches_what_is_anothers_in_the_store() -> None:
    """A server that has been started again, and has restored nothing yet: likewise."""
    tenants, always = Tenants(victim={}, **{f"t{number}": {} for number in range(200)}), StoreSettings(durable="always")
    made = partial(front_door, access=tenants.access, capacity=1000, backend=partial(FakeBackend, slots=5096), keep=always)
    contents = Contents()
    async with made(contents=contents) as front, victim(front.of(tenants.token("victim"))) as before:
        aims = targets(before.secrets, before.snapshot, before.page_token)
    async with made(contents=contents) as front:
        told, got = await answers(front, tenants, "caller", aims)
        mine = front.of(tenants.token("victim"))
        attach = inference_pb2.AttachSession(handle=0, id=HELD, secret=before.secrets[HELD])
        async with CountingStream(mine.channel) as stream:
            await stream.send(inference_pb2.StreamRequest(attach=inference_pb2.Attach(model="counter", sessions=[attach])))
            assert not (await stream.receive()).attached.sessions[0].HasField("error")
    async with made(contents=Contents()) as front:
        expected, _ = await answers(front, tenants, "caller", aims)
    assert not got & {*before.secrets.values(), before.snapshot}
    assert told == expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2])
async def test_nobody_reaches_what_is_anothers_over_any_worker(tmp_path: Path, workers: int) -> None:
    """A server as its users run it: what another tenant's session is found as, over each of its processes, is just what one is
    found as that nobody ever had."""
    tenants, file = Tenants(a={}, b={}), tmp_path / "tenants.toml"
    file.write_text(tenants.toml())
    flags, token = ["--door.tokens", str(file)], tenants.token("a")
    async with working_server(write_models(tmp_path / "models"), workers, *flags, token=token) as server:
        first, *_ = connections = await server.connect_to_each()
        mine = showing(first.channel, token=token)
        async with WireStream(mine) as stream:
            (held,) = await stream.open(SMALL, [0])
            plant(held.secret)
            nobody = held.id[::-1]
            for connection in connections:
                told = []
                for id in (held.id, nobody):
                    who = Trespasser(showing(connection.channel, token=tenants.token("b")))
                    for attack in LOOKUPS:
                        await attack(who, Target(SMALL, id, held.secret, 1, "", "", b""))
                    told.append([each.replace(id, "ID") for each in who.told])
                assert told[0] == told[1]
                assert len(told[0]) > len(LOOKUPS)
            get = session_pb2.GetSessionRequest(model=SMALL, id=held.id)
            found = (await session_pb2_grpc.SessionServiceStub(mine).GetSession(get)).session
            assert (found.next_seq, found.attached) == (0, True)


async def test_a_full_server_tells_nothing_of_who_has_filled_it() -> None:
    """Neither how much there is, nor how much of it others have; a listing is of one's own sessions."""
    tenants = Tenants(a={"sessions": 7}, b={"sessions": 9})
    async with front_door(access=tenants.access, capacity=7) as front:
        first, second = front.of(tenants.token("a")), front.of(tenants.token("b"))
        await second.sessions.OpenSessions(session_pb2.OpenSessionsRequest(model="counter", count=2))
        await first.sessions.OpenSessions(session_pb2.OpenSessionsRequest(model="counter", count=5))
        for who, expected in ((first, 5), (second, 2)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await who.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter"))
            assert refused.value.details() == "all sessions that the server has room for are in use"
            listed = await who.sessions.ListSessions(session_pb2.ListSessionsRequest())
            assert len(listed.sessions) == expected


async def test_pages_are_of_ones_own_sessions() -> None:
    """Page by page, while others open and close theirs; the token of a page is that of a server of one's own."""
    tenants = Tenants(a={}, b={})
    tokens: list[list[str]] = []
    for others in (0, 3):
        async with front_door(access=tenants.access) as front:
            mine, theirs = front.of(tenants.token("a")), front.of(tenants.token("b"))
            for number in range(5):
                await mine.sessions.OpenSession(session_pb2.OpenSessionRequest(model="counter", id=f"x{number}"))
                if others:
                    await theirs.sessions.OpenSessions(session_pb2.OpenSessionsRequest(model="counter", count=others))
            listed, token, seen = list[str](), "", list[str]()
            while token or not listed:
                request = session_pb2.ListSessionsRequest(model="counter", page_size=2, page_token=token)
                page = await mine.sessions.ListSessions(request)
                listed += [each.id for each in page.sessions]
                token = page.next_page_token
                seen.append(token)
            assert listed == [f"x{number}" for number in range(5)]
            tokens.append(seen)
    assert tokens[0] == tokens[1]
