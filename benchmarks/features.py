"""Everything that the server has, as it is used. Each feature is a coroutine that opens what it needs, checks what comes, and
lets go of it. Models are the shipped ones."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np

from benchmarks.load import Lane, Plan
from benchmarks.plain_calls import PLAIN
from benchmarks.use import LEFT_SECONDS, Feature, Scene, network, refused, same, shape
from benchmarks.wire import connect
from stepstream import (
    Client,
    ClientOptions,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    SecretMismatch,
    SessionExists,
    SessionNotFound,
    SessionTaken,
    SnapshotCorrupt,
)
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc

_MOMENT_SECONDS = 0.02  # for the server to read what was written
_LONG = 900  # steps of a chunk that takes a while
_LATE_SECONDS = 0.001  # which a step behind such a chunk cannot keep
_READINGS = np.sin(np.arange(90, dtype=np.float32) / 9)[:, np.newaxis]  # a second of `ecg`, mV: [90, 1]


# Sessions that are held ----------------------------------------------------------------------------------------------


async def single_steps(scene: Scene) -> None:
    """A sensor's session: steps, a reset, steps again."""
    async with scene.client.open_session("ecg", id=scene.name(), idle_ttl=LEFT_SECONDS) as session:
        for reading in _READINGS[:5]:
            shape((await session.step(reading))["next"], 21)
        await session.reset()
        async for outputs in session.stream(_READINGS[:20]):
            shape(outputs["next"], 21)


async def groups(scene: Scene) -> None:
    """A gateway's sessions: a block of single steps, and one of chunks."""
    async with scene.client.open_sessions("digits", 50) as group:
        shape((await group.step(np.zeros((50, 64))))["symbol"], 50, 12)
        shape((await group.chunk(np.zeros((50, 10, 64)), "last"))["symbol"], 50, 1, 12)
        await group.reset()


async def chunks(scene: Scene) -> None:
    """Many steps in a message, with all outputs, the last one's and none, also longer than the session's window."""
    async with scene.client.open_session("ecg") as session:
        shape((await session.chunk(_READINGS))["ahead_9"], 90, 21)
        shape((await session.chunk(_READINGS, "last"))["ahead_9"], 1, 21)
        await session.chunk(np.tile(_READINGS, (15, 1)), "none")


async def texts(scene: Scene) -> None:
    """Models of words, bytes and pieces."""
    for model, text in (
        ("sentiment", "not bad, but dull"),
        ("memory", "I grew up in Pakistan."),
        ("code", "def mean(values):\n"),
    ):
        async with scene.client.open_session(model) as session:
            await session.chunk(text, "last")


async def deadlines(scene: Scene) -> None:
    """A step whose time is over before it runs, behind a long chunk of its session."""
    async with scene.client.open_session("code") as session:
        chunk = asyncio.ensure_future(session.chunk(np.zeros(_LONG, np.int64), "none"))
        await asyncio.sleep(0)  # the chunk goes first
        await refused(session.step(0, timeout=_LATE_SECONDS), DeadlineExceeded)
        await chunk


async def taken_over(scene: Scene) -> None:
    """A session that another client attaches while it is held, then detaches, and leaves to its expiry."""
    async with Client(scene.address) as other:
        session = await scene.client.open_session("ecg", idle_ttl=LEFT_SECONDS)
        await session.step([0.0])
        again = await other.attach_session("ecg", session.id, session.secret, acked=session.acked)
        await again.step([0.1])
        await refused(session.step([0.1]), SessionTaken)
        await again.detach()


# Copies --------------------------------------------------------------------------------------------------------------


async def forks(scene: Scene) -> None:
    """Branches of a session: one group is closed, a single one is left to its expiry."""
    async with scene.client.open_session("ecg", idle_ttl=LEFT_SECONDS) as session:
        await session.chunk(_READINGS[:10], "none")
        async with await session.fork(3) as branches:
            shape((await branches.step(np.zeros((3, 1))))["next"], 3, 21)
        await (await session.fork()).detach()


async def snapshots(scene: Scene) -> None:
    """Exported to go on elsewhere, and imported; exported as a copy."""
    session = await scene.client.open_session("translate")
    await session.chunk("am dritten März", "last")
    await session.export()
    async with scene.client.import_session(await session.export(close=True), id=scene.name()) as moved:
        await moved.chunk("<fr>", "last")


# Rollouts ------------------------------------------------------------------------------------------------------------


async def rollouts(scene: Scene) -> None:
    """Texts that write themselves: in a session, on a copy of it, and without a session."""
    async with scene.client.open_session("memory") as session:
        await session.chunk("I grew up in Pakistan.", "none")
        await session.generate("I speak fluent", max_steps=10, temperature=0.7, stop=".").whole()
        await session.generate(max_steps=10, commit="none").whole()
        await session.generate(max_steps=10, commit="each").whole()
    text = await scene.client.generate("translate", "am dritten März <fr>", max_steps=20).whole()
    same("translation", text, "le trois mars")


async def forecasts(scene: Scene) -> None:
    """Quantiles over many paths."""
    async with scene.client.open_session("ecg") as session:
        await session.chunk(_READINGS[:20], "none")
        shape(await session.forecast(9, paths=50), 9, 3, 1)


async def cancelled(scene: Scene) -> None:
    """A rollout that its reader leaves, and one that is dropped with its call; the session goes on."""
    async with scene.client.open_session("code") as session:
        rollout = session.generate("def ", max_steps=100_000)
        async for _ in rollout:
            break
        await rollout.aclose()
        whole = asyncio.ensure_future(session.generate("import ", max_steps=100_000).whole())
        await asyncio.sleep(0.05)
        whole.cancel()
        await asyncio.wait([whole])
        await session.step(0)


# Calls ---------------------------------------------------------------------------------------------------------------


async def one_shots(scene: Scene) -> None:
    """Steps by calls of their own: of a session that the first one opens, with and without numbers, and repeated."""
    ids = scene.name(), scene.name()
    for name in ids:
        await scene.client.step("ecg", name, [0.0], open=True, idle_ttl=LEFT_SECONDS)
    answers = [await scene.client.step("ecg", ids[0], [0.1], seq=1) for _ in range(2)]
    same("repeat", *(each["next"].tobytes() for each in answers))
    await scene.client.close_session("ecg", ids[0])  # the other one expires


async def lists(scene: Scene) -> None:
    """Lists of what is served and what is open."""
    same("models", len(await scene.client.models()), 6)
    async with scene.client.open_session("digits") as session:
        same("attached", (await scene.client.get_session("digits", session.id)).attached, True)
        ids = [each.id async for each in scene.client.list_sessions("digits", page_size=20)]
        same("listed", session.id in ids, True)


async def refusals(scene: Scene) -> None:
    """Faults of callers, each of which is refused."""
    client = scene.client
    async with client.open_session("ecg") as session:
        await refused(session.step([float("nan")]), InvalidInput)
        await refused(client.open_session("ecg", id=session.id), SessionExists)
        await refused(client.attach_session("ecg", session.id, bytes(16)), SecretMismatch)
    await refused(client.open_session("nothing"), ModelNotFound)
    await refused(client.get_session("ecg", scene.name()), SessionNotFound)
    await refused(client.import_session(b"no snapshot"), SnapshotCorrupt)
    step = inference_pb2_grpc.InferenceServiceStub(scene.channel).Step  # what the client would not send
    name = scene.name()
    await client.step("ecg", name, [0.0], open=True, idle_ttl=LEFT_SECONDS)
    for seq, reading in ((1, float("nan")), (99, 0.0)):
        values = {"mv": inference_pb2.Values(numbers=[reading])}
        request = inference_pb2.StepRequest(model="ecg", session_id=name, seq=seq, inputs=values)
        await refused(step(request), grpc.aio.AioRpcError)


# Connections ---------------------------------------------------------------------------------------------------------


async def connections(scene: Scene) -> None:
    """A client that comes, opens sessions, and leaves them to their expiry."""
    async with Client(scene.address) as client:
        group = await client.open_sessions("sentiment", 5, idle_ttl=LEFT_SECONDS)
        await group.step(np.zeros(5, np.int64))


async def vanished(scene: Scene) -> None:
    """A client that is gone with answers under way, and one that gives its stream up first."""
    plan = Plan(scene.address, 0, "ecg", input_width=1, output_width=63, sessions=10, length=8)
    for politely in (False, True):
        connection = connect(scene.address)
        lane = Lane(connection, plan, 0)
        lane.open()
        lane.send_block()
        connection.flush()
        await asyncio.sleep(_MOMENT_SECONDS)
        if politely:
            connection.reset(lane.stream)
            connection.flush()
            await asyncio.sleep(_MOMENT_SECONDS)  # gRPC would take a minute to notice that both are gone at once
        connection.close()


async def reconnected(scene: Scene) -> None:
    """A client whose connection breaks twice, and who goes on all the same."""
    hasty = ClientOptions(reconnect_first_seconds=0.01)
    async with (
        network(scene.address) as (address, cut),
        Client(address, hasty) as client,
        client.open_session("ecg") as session,
    ):
        for _ in range(2):
            await session.step([0.0])
            cut()
        shape((await session.step([0.0]))["next"], 21)


FEATURES: tuple[Feature, ...] = (
    single_steps, groups, chunks, texts, deadlines, taken_over, forks, snapshots, rollouts, forecasts, cancelled, one_shots,
    lists, refusals, *PLAIN, connections, vanished, reconnected,
)  # fmt: skip
