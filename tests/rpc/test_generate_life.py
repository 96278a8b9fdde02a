"""Rollouts that do not come to their end: given up at any moment, too slow, never read, failed with their engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, model_pb2, session_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine.ports import Call, CallersLeft, Drain, Generate, List
from stepstream_server.engine.rollouts.rollouts import MOST_AHEAD
from stepstream_server.rpc.generate import RolloutCaller
from support.echo import ring_backend, ring_spec
from support.front_door import Arrivals, FrontDoor, front_door, wait_for
from support.generating import FOREVER, check_nothing_rolls, engine_when, refusal, request, small_window, tokens, whole

GENERATE = ("stepstream.v1.InferenceService", "Generate")
END, EACH, NONE = inference_pb2.COMMIT_END, inference_pb2.COMMIT_EACH, inference_pb2.COMMIT_NONE


class Ring:
    """A front door of the model `ring` with a session `s`."""

    def __init__(self, front: FrontDoor, arrivals: Arrivals, channel: grpc.aio.Channel) -> None:
        self.front = front
        self._inference = inference_pb2_grpc.InferenceServiceStub(channel)
        self.model = front.models["ring"]
        self.arrivals = arrivals
        self.stepping: list[asyncio.Future[inference_pb2.StepResponse]] = []

    def generate(self, **fields: object) -> Any:
        """A call of a rollout of the session that does not end by itself."""
        return self._inference.Generate(request(**{"session_id": "s", "max_steps": FOREVER, **fields}))

    async def all_heard(self) -> None:
        """Returns once the server has heard of every call before."""
        assert (await whole(self.generate(session_id="", max_steps=1))).tokens == [1]

    async def step(self) -> inference_pb2.StepResponse:
        """A step of the session."""
        wanted = inference_pb2.StepRequest(model="ring", session_id="s")
        wanted.inputs["token"].numbers.append(3)
        response: inference_pb2.StepResponse = await self.front.inference.Step(wanted)
        return response

    async def next_seq(self) -> int:
        """Where the session stands."""
        got = await self.front.sessions.GetSession(session_pb2.GetSessionRequest(model="ring", id="s"))
        return int(got.session.next_seq)

    async def ended(self) -> str:
        """Waits for the end of a rollout's call. Returns its code."""
        while (call := await self.front.ended.get())[:2] != GENERATE:
            pass
        return call[2]

    async def paused(self) -> int:
        """Waits until the engine computes nothing, though it is asked again and again. Returns how much it has computed."""
        before, still = -1, 0
        while still < 50:
            await self.next_seq()
            now = len(self.model.backend.launches)
            still, before = (still + 1, now) if now == before else (0, now)
        return before


@pytest_asyncio.fixture
async def ring() -> AsyncIterator[Ring]:
    """It is there until the test ends."""
    arrivals = Arrivals()
    async with (
        front_door("ring", spec=ring_spec, backend=ring_backend, tap=arrivals, capacity=300) as front,
        small_window(front.address) as channel,
    ):
        await front.sessions.OpenSession(session_pb2.OpenSessionRequest(model="ring", id="s"))
        yield Ring(front, arrivals, channel)


# Given up ------------------------------------------------------------------------------------------------------------


async def not_sent(ring: Ring, commit: int) -> Any:
    """At once, when nobody can say how far it has come."""
    return ring.generate(commit=commit)


async def queued(ring: Ring, commit: int) -> Any:
    """While the engine computes a step before it."""
    ring.model.gate.close()
    ring.stepping.append(asyncio.ensure_future(ring.step()))
    await wait_for(ring.model.gate.reached)
    arrived = ring.arrivals.next(Generate)
    call = ring.generate(commit=commit)
    await arrived
    return call


async def behind_a_step(ring: Ring, commit: int) -> Any:
    """While another step before it is still pending, too."""
    ring.model.gate.close()
    ring.stepping.append(asyncio.ensure_future(ring.step()))
    await wait_for(ring.model.gate.reached)
    arrived = ring.arrivals.next(Call)
    ring.stepping.append(asyncio.ensure_future(ring.step()))
    await arrived
    arrived = ring.arrivals.next(Generate)
    call = ring.generate(commit=commit)
    await arrived
    return call


async def in_its_prompt(ring: Ring, commit: int) -> Any:
    """While the first steps of a long prompt are computed."""
    ring.model.gate.close()
    call = ring.generate(commit=commit, prompt=[tokens(*[1] * 5000)])
    await wait_for(ring.model.gate.reached)
    return call


async def drawing(ring: Ring, commit: int) -> Any:
    """While a draw is fed, after some messages."""
    call = ring.generate(commit=commit)
    for _ in range(3):
        await call.read()
    ring.model.gate.close()
    await wait_for(ring.model.gate.reached)
    return call


async def unread(ring: Ring, commit: int) -> Any:
    """When it has paused, since nobody reads."""
    call = ring.generate(commit=commit)
    await engine_when(ring.front, lambda stats: stats.rollouts == 1)
    await ring.paused()
    return call


MOMENTS: tuple[Callable[[Ring, int], Awaitable[Any]], ...] = (
    not_sent, queued, behind_a_step, in_its_prompt, drawing, unread,
)  # fmt: skip


@pytest.mark.parametrize("commit", [END, EACH, NONE], ids=["end", "each", "none"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
async def test_a_call_given_up_leaves_no_rollout_behind(
    ring: Ring, moment: Callable[[Ring, int], Awaitable[Any]], commit: int
) -> None:
    """At whatever moment: its slots are free again, nobody waits for it, and its session takes steps from where it stands."""
    call = await moment(ring, commit)
    left = ring.arrivals.next(CallersLeft)
    call.cancel()
    if moment is not not_sent:
        await left
    ring.model.gate.open()
    await ring.all_heard()
    await asyncio.gather(*ring.stepping)
    await check_nothing_rolls(ring.front)
    if moment is not not_sent:
        assert "CANCELLED" in [await ring.ended() for _ in range(2)]
    stands = await ring.next_seq()
    if commit != EACH:
        assert stands == len(ring.stepping)
    assert (await ring.step()).seq == stands
    told = await whole(ring.generate(prompt=[], max_steps=2))
    assert (told.tokens, told.next_seq) == ([4, 5], stands + 3)


async def test_a_storm_of_rollouts_that_are_given_up_leaves_nothing_behind(ring: Ring) -> None:
    """Three hundred of them at once, each after as many messages as chance says, some at once."""
    rng = np.random.default_rng(5)
    fields: list[dict[str, object]] = [{"session_id": "", "prompt": [tokens(*[1] * int(n))]} for n in rng.integers(1, 200, 300)]

    async def begin_and_leave(wanted: dict[str, object], messages: int) -> None:
        call = ring.generate(**wanted)
        for _ in range(messages):
            await call.read()
        call.cancel()

    await asyncio.gather(*map(begin_and_leave, fields, rng.integers(0, 5, 300).tolist()))
    await ring.all_heard()
    await check_nothing_rolls(ring.front)


async def test_a_deadline_ends_a_rollout(ring: Ring) -> None:
    """The caller's own, however it commits; what was told by then was told."""
    wanted = request(session_id="s", max_steps=FOREVER)
    call = ring.front.inference.Generate(wanted, timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read() is not grpc.aio.EOF:
            pass
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await check_nothing_rolls(ring.front)
    assert await ring.next_seq() == 0


# Unread --------------------------------------------------------------------------------------------------------------


async def test_a_rollout_that_nobody_reads_pauses(ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has drawn ahead of its reader is bounded; others go on; it goes on when it is read, as if nothing had been."""
    callers: list[RolloutCaller] = []
    run = RolloutCaller.run

    def spied(self: RolloutCaller, wanted: Generate) -> AsyncIterator[inference_pb2.GenerateResponse]:
        callers.append(self)
        return run(self, wanted)

    monkeypatch.setattr(RolloutCaller, "run", spied)
    call = ring.generate()
    await engine_when(ring.front, lambda stats: stats.rollouts == 1)
    drawn = await ring.paused()
    (caller,) = callers
    assert sum(each.steps for each in caller._told) <= MOST_AHEAD
    others = [ring.generate(session_id="", max_steps=500) for _ in range(20)]
    for told in await asyncio.gather(*map(whole, others)):
        assert told.tokens == [seq % 8 for seq in range(1, 501)]
    assert sum(each.steps for each in caller._told) <= MOST_AHEAD
    found: list[int] = []
    while len(found) < drawn + 3 * MOST_AHEAD:
        found += np.frombuffer((await call.read()).tokens, "<i8").tolist()
    assert found == [seq % 8 for seq in range(1, len(found) + 1)]
    call.cancel()
    await check_nothing_rolls(ring.front)


# Counted and bounded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [True, False])
async def test_a_rollout_is_one_of_the_calls_at_once(read: bool) -> None:
    """As long as it is open, be it read or not; once it has been given up there is room again."""
    settings = DoorSettings(max_calls=2)
    async with (
        front_door("ring", spec=ring_spec, backend=ring_backend, settings=settings) as front,
        small_window(front.address) as channel,
    ):
        slow = inference_pb2_grpc.InferenceServiceStub(channel)
        going = [slow.Generate(request(max_steps=FOREVER)) for _ in range(2)]
        for call in going:
            await call.read()
        found = await refusal(front.inference.Generate(request()))
        assert (found.code, found.reason, found.retry_ms) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", 20)
        with pytest.raises(grpc.aio.AioRpcError, match="all 2 calls are in use"):
            await front.catalogue.ListModels(model_pb2.ListModelsRequest())
        if not read:
            engine, door = front.models["ring"].engine, front.models["ring"].door
            while engine._rollouts.busy:
                await door.ask(lambda number: List(number, 0, 1))
        for call in going:
            call.cancel()
        calls = [await front.ended.get() for _ in range(4)]
        assert calls[2:] == [(*GENERATE, "CANCELLED")] * 2
        assert (await whole(front.inference.Generate(request()))).tokens == [1, 2, 3]
        assert await front.ended.get() == (*GENERATE, "OK")
        await check_nothing_rolls(front)


# The server's end ----------------------------------------------------------------------------------------------------


async def test_a_crash_is_told_to_every_rollout(ring: Ring) -> None:
    """To those that draw, and to those that come later."""
    going = [ring.generate(session_id="", commit=commit) for commit in (END, EACH, NONE)]
    for call in going:
        await call.read()
    ring.model.backend.broken = True
    for call in (*going, ring.generate()):
        found = await refusal(call)
        assert (found.code, found.reason) == ("INTERNAL", "ENGINE_FAILED")
        assert found.message == "the engine of model 'ring' has failed"
    assert not ring.model.door._rollouts


async def test_draining_lets_rollouts_end_and_begins_none(ring: Ring) -> None:
    """Also one that has paused for its reader: only when the last one has ended is nothing left to do."""
    call = ring.generate(max_steps=2_000)
    await engine_when(ring.front, lambda stats: stats.rollouts == 1)
    await ring.paused()
    drained = asyncio.ensure_future(ring.model.door.ask(Drain))
    found = await refusal(ring.generate(session_id=""))
    assert (found.code, found.reason, found.retry_ms) == ("UNAVAILABLE", "SERVER_DRAINING", 1000)
    assert not drained.done()
    told = await whole(call)
    assert told.next_seq == 2_001
    await drained
    assert await ring.next_seq() == 2_001
