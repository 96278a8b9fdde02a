"""Rollouts of the whole server with workers: what is left of them when a worker dies, and when the server is told to stop."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import grpc
import pytest

from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, session_pb2, session_pb2_grpc
from stepstream_server import snapshots
from stepstream_server.bundles import write
from support import quick_server
from support.generating import FOREVER, refusal, request, whole
from support.health import NOT_SERVING, SERVING, Watch
from support.models import random_model
from support.workers import Connection, working_server

LABELS = '{model="text",version="1"}'
ROLLOUT_SLOTS = "stepstream_rollout_slots" + LABELS
ENDED = 'stepstream_rollouts_ended_total{ending="%s",model="text",version="1"}'
END, EACH, NONE = inference_pb2.COMMIT_END, inference_pb2.COMMIT_EACH, inference_pb2.COMMIT_NONE


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one small model of 16 tokens."""
    folder = tmp_path_factory.mktemp("texts")
    write(folder / "text", *random_model(outputs=16, tokens=16, name="text"))
    return folder


def generate(connection: Connection, **fields: Any) -> Any:
    """A call of a rollout."""
    return inference_pb2_grpc.InferenceServiceStub(connection.channel).Generate(request(**{"model": "text", **fields}))


def sessions(connection: Connection) -> session_pb2_grpc.SessionServiceStub:
    """Calls about sessions, on a connection."""
    return session_pb2_grpc.SessionServiceStub(connection.channel)


def nothing_rolls(seen: dict[str, float]) -> bool:
    """By the metrics."""
    return not seen["stepstream_rollouts_active" + LABELS]


async def state(connection: Connection, id: str) -> dict[str, object]:
    """What a session remembers, and how many steps it has made."""
    exported = await sessions(connection).ExportSession(session_pb2.ExportSessionRequest(model="text", id=id))
    snapshot = snapshots.decode(exported.snapshot)
    return {"steps": snapshot.next_seq, **{name: values.tobytes() for name, values in snapshot.states.items()}}


async def test_a_worker_that_dies_takes_its_rollouts_with_it(texts: Path) -> None:
    """Their slots are free, those of other workers go on; a session is as it was, or has made the steps that were its own."""
    async with working_server(texts, 2, program=[quick_server.__file__]) as running:
        doomed, other = await running.connect_to_each()
        commits = {"end": END, "each": EACH, "none": NONE}
        for id in commits:
            await sessions(other).OpenSession(session_pb2.OpenSessionRequest(model="text", id=id))
            await whole(generate(other, session_id=id, max_steps=20))
        before = {id: await state(other, id) for id in commits}
        plain = {"prompt": [], "temperature": 1.0}
        dying = [generate(doomed, session_id=id, max_steps=FOREVER, commit=commit, **plain) for id, commit in commits.items()]
        dying += [generate(doomed, max_steps=FOREVER) for _ in range(10)]
        going = generate(other, max_steps=FOREVER)
        for call in (*dying, going):
            await call.read()
        slots = len(dying) - 1 + 1  # the rollout whose steps are its session's own has none, the other worker's has one
        assert (await running.metrics())[ROLLOUT_SLOTS] == slots
        await running.kill(doomed.worker)
        seen = await running.metrics_when(lambda seen: seen[ENDED % "CANCELLED"] == len(dying))
        assert (seen["stepstream_rollouts_active" + LABELS], seen[ROLLOUT_SLOTS]) == (1, 1)
        for call in dying:
            with pytest.raises(grpc.aio.AioRpcError):
                while await call.read() is not grpc.aio.EOF:
                    pass
        after = {id: await state(other, id) for id in commits}
        assert (after["end"], after["none"]) == (before["end"], before["none"])
        assert after["each"] != before["each"]
        for id in commits:
            await whole(generate(other, session_id=id, max_steps=20, **plain))
        assert await going.read() is not grpc.aio.EOF
        going.cancel()
        assert (await running.metrics_when(nothing_rolls))[ROLLOUT_SLOTS] == 0


async def test_rollouts_end_before_the_server_does(texts: Path) -> None:
    """Those under way are told to their last draw, also by workers that have nothing else to do; new ones are refused."""
    async with working_server(texts, 2) as running:
        connections = await running.connect_to_each()
        watches = [Watch(each.channel, "readiness") for each in connections]
        assert [await watch.status() for watch in watches] == [SERVING] * 2
        calls = [generate(each, max_steps=3000) for each in connections * 3]
        for call in calls:
            await call.read()
        blocker = generate(connections[0], max_steps=20_000)
        await blocker.read()
        running.server.process.send_signal(signal.SIGTERM)
        for watch in watches:
            assert await watch.status() == NOT_SERVING
        for connection in connections:
            found = await refusal(generate(connection))
            assert (found.code, found.reason) == ("UNAVAILABLE", "SERVER_DRAINING")
        told = await asyncio.gather(*map(whole, (*calls, blocker)))
        assert [each.next_seq for each in told] == [3001] * 6 + [20_001]
        code, log = await running.server.ended()
        assert code == 0
        assert json.loads(log.splitlines()[-1])["complete"]
        await running.nobody_left()


async def test_a_drain_does_not_wait_for_ever(texts: Path) -> None:
    """A rollout that would never end is cut off when the time for stopping is over."""
    async with working_server(texts, 1, "--door.drain_seconds", "0.2") as running:
        connection = await running.connect()
        call = generate(connection, max_steps=FOREVER)
        await call.read()
        running.server.process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
        code, log = await running.server.ended()
        assert code == 0
        assert not json.loads(log.splitlines()[-1])["complete"]
        await running.nobody_left()
