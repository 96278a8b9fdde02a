"""Rollouts whose connection breaks: they go on as they would have, or say so, and the session's numbers are right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2

from stepstream import Client, ConnectionLost, ServerDraining, Session, Unavailable
from stepstream._models import model_info
from stepstream._options import Backoff
from stepstream._rollout import messages
from stepstream._token import Token
from stepstream_proto.v1 import inference_pb2 as pb
from support.servicer import QUICK, FakeServicer, reciting, rolling_models
from support.status import failed_call

TEXT = "def f(x):\n    return für(x)\n\n# end € of it"


@pytest.fixture
async def servicer() -> FakeServicer:
    """With models to roll out; those of text recite TEXT."""
    return reciting(TEXT)


@pytest.fixture
async def client(address: str) -> AsyncIterator[Client]:
    """A client that loses no time."""
    async with Client(address, QUICK) as connected:
        yield connected


@pytest.fixture
async def session(client: Client) -> AsyncIterator[Session]:
    """A new session `a` of a model of text."""
    async with client.open_session("letters", id="a") as session:
        yield session


def rollouts(client: Client, session: Session) -> dict[str, Callable[..., Any]]:
    """The ways to have one."""
    return {
        "end": lambda *prompt, **more: session.generate(*prompt, **more),
        "none": lambda *prompt, **more: session.generate(*prompt, commit="none", **more),
        "nowhere": lambda *prompt, **more: client.generate("letters", *prompt, **more),
        "by id": lambda *prompt, **more: client.generate("letters", *prompt, id="a", secret=session.secret, **more),
    }


@pytest.mark.parametrize("way", ["end", "none", "nowhere", "by id"])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_it_goes_on_with_the_same_text(
    client: Client, session: Session, servicer: FakeServicer, way: str, pieces: int
) -> None:
    """However often it breaks, also within a character and within a stop sequence; each call feeds what was told before."""
    servicer.rollouts.pieces = pieces
    cut, end = TEXT.encode().index("ü".encode()) + 1, TEXT.encode().index(b"\n\n") + 1
    servicer.rollouts.break_at = [8, 9, cut, end]
    rollout = rollouts(client, session)[way]("def ", max_steps=40, stop="\n\n", seed=9)
    told = [piece async for piece in rollout]
    assert "".join(told) == TEXT[4 : TEXT.index("\n\n")]
    assert (rollout.ending, rollout.next_seq) == ("stop", end + 1)
    calls = servicer.rollouts.calls
    assert len(calls) == 5
    for call in calls:
        fed = np.frombuffer(call.prompt[0], "<i8")
        assert bytes(fed.tolist()) == TEXT.encode()[: len(fed)]
        assert (len(fed) + call.max_steps, call.seed, len(call.stop)) == (44, 9, 1)
    assert session.next_seq == (end + 1 if way == "end" else 0)
    assert servicer.sessions["a"].next_seq == (end + 1 if way in ("end", "by id") else 0)


async def test_draws_are_those_of_an_unbroken_rollout(client: Client, servicer: FakeServicer) -> None:
    """Of numbers as well, from a session that has been stepped, without a prompt."""
    async with client.open_session("walk", id="w") as session:
        await session.chunk([1.0, 2.0])
        whole = await session.generate(max_steps=9, seed=3, commit="none").whole()
        servicer.rollouts.break_at = [5, 5, 8]
        assert np.array_equal(await session.generate(max_steps=9, seed=3).whole(), whole)
        assert session.next_seq == 11


async def test_a_forecast_is_made_again(client: Client, servicer: FakeServicer) -> None:
    """Quantiles cannot be fed: it begins anew with the same draws."""
    async with client.open_session("walk", id="w") as session:
        whole = await session.forecast(5, seed=3, prompt=[1.0])
        servicer.rollouts.break_at = [1, 1]
        assert np.array_equal(await session.forecast(5, seed=3, prompt=[1.0]), whole)
        assert len(servicer.rollouts.calls) == 4


async def test_each_step_committed_is_not_repeated(session: Session, servicer: FakeServicer) -> None:
    """Nobody knows what was applied and not heard: it raises, and the next call has the right number."""
    servicer.rollouts.break_at, servicer.rollouts.ahead = [7], 3
    told = []
    with pytest.raises(ConnectionLost):
        async for piece in session.generate("def ", max_steps=40, commit="each"):
            told.append(piece)
    assert told == list(TEXT[4:7])
    assert session.next_seq == servicer.sessions["a"].next_seq == 10
    assert (await session.step(0))["count"] == [11]
    assert len(servicer.rollouts.calls) == 1


async def test_an_ending_that_was_not_heard_raises(session: Session, servicer: FakeServicer) -> None:
    """The session has moved on by then; its numbers are right."""
    servicer.rollouts.lose_endings = 1
    with pytest.raises(ConnectionLost):
        await session.generate("def ", max_steps=5).whole()
    assert session.next_seq == servicer.sessions["a"].next_seq == 9
    assert (await session.step(0))["count"] == [10]


async def test_all_that_could_be_told_had_been_told(client: Client, servicer: FakeServicer) -> None:
    """There is nothing left to ask for, but the ending was not heard."""
    servicer.rollouts.lose_endings = 1
    servicer.rollouts.text = list(b"def f\n\n")
    rollout = client.generate("letters", "def ", max_steps=3, stop="\n\n")
    assert await rollout.whole() == "f"
    assert (rollout.ending, len(servicer.rollouts.calls)) == ("stop", 2)


async def test_a_session_that_moved_on_meanwhile_cannot_be_rolled_out_on(session: Session, servicer: FakeServicer) -> None:
    """What commits nothing lets other steps pass; where it began is gone then."""
    servicer.rollouts.hold_at = 6
    servicer.rollouts.break_at = [6]
    rollout = session.generate("def ", max_steps=9, commit="none")
    assert await anext(rollout) == "f"
    await session.step(0)
    servicer.rollouts.hold_at = None
    await servicer.tell()
    with pytest.raises(ConnectionLost):
        await rollout.whole()
    assert (await session.step(0))["count"] == [2]


async def test_a_call_that_the_server_has_not_missed_yet_is_waited_for(session: Session, servicer: FakeServicer) -> None:
    """It holds the session until then."""
    servicer.rollouts.break_at = [6]
    servicer.rollouts.still_held = 2
    assert await session.generate("def ", max_steps=5).whole() == TEXT[4:9]
    assert len(servicer.rollouts.calls) == 4


async def test_the_stream_may_break_with_it(session: Session, servicer: FakeServicer) -> None:
    """Steps behind it are sent once on the next stream, after it."""
    servicer.rollouts.hold_at = 6
    servicer.rollouts.break_at = [6]
    rollout = asyncio.ensure_future(session.generate("def ", max_steps=5).whole())
    await servicer.until(lambda: servicer.rollouts.running == 1)
    step = asyncio.ensure_future(session.step(0))
    servicer.cut_streams()
    await servicer.until(lambda: len(servicer.seen("attach")) == 1)
    servicer.rollouts.hold_at = None
    await servicer.tell()
    assert await rollout == TEXT[4:9]
    assert (await step)["count"] == [10]


async def test_what_cannot_be_placed_is_not_repeated(client: Client, session: Session, servicer: FakeServicer) -> None:
    """By id without a number a first call may have been applied."""
    servicer.rollouts.break_at = [4]
    with pytest.raises(Unavailable):
        await client.generate("letters", "def ", max_steps=5, id="a", secret=session.secret).whole()
    assert len(servicer.rollouts.calls) == 1


async def test_patience_ends(frail: Client, servicer: FakeServicer) -> None:
    """Without any, the first break is told: as what it is if nothing had come, else as a lost connection."""
    servicer.rollouts.break_at = [6]
    with pytest.raises(ConnectionLost):
        await frail.generate("letters", "def ", max_steps=5).whole()
    servicer.refusals = [failed_call(grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", "stopping")]
    with pytest.raises(ServerDraining):
        await frail.generate("letters", "def ", max_steps=5).whole()


async def test_a_server_that_puts_it_off_is_asked_again(client: Client, servicer: FakeServicer) -> None:
    """While it warms up, for one."""
    await client.open_session("letters", id="b")
    servicer.refusals = [status_pb2.Status(code=14, message="not yet")] * 3
    assert await client.generate("letters", "def ", max_steps=5).whole() == TEXT[4:9]
    assert servicer.refused == 3


@pytest.mark.parametrize("commit", ["end", "each", "none"])
async def test_one_that_finds_no_room_is_put_off(session: Session, servicer: FakeServicer, commit: Any) -> None:
    """It has not begun, whatever it commits."""
    servicer.refusals = [failed_call(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "too many")] * 2
    assert await session.generate("def ", max_steps=5, commit=commit).whole() == TEXT[4:9]
    assert servicer.refused == 2


async def test_more_than_a_message_holds_cannot_be_fed_again(session: Session, servicer: FakeServicer) -> None:
    """The connection is what was lost, not a limit that the caller knows nothing of."""
    servicer.rollouts.break_at = [6]
    servicer.rollouts.most_fed = 5
    with pytest.raises(ConnectionLost):
        await session.generate("def ", max_steps=5).whole()
    assert (await session.step(0))["count"] == [1]


class Calls:
    """Calls of a server that tells two tokens by the first of them, which breaks, and the last two by the second."""

    def __init__(self) -> None:
        self.prompts: list[bytes] = []

    def __call__(self, request: pb.GenerateRequest, metadata: object) -> Any:
        self.prompts += request.prompt
        self._told = iter([[3, 4], None] if len(self.prompts) == 1 else [[5, 6]])
        return self

    def __aiter__(self) -> Calls:
        return self

    async def __anext__(self) -> pb.GenerateResponse:
        try:
            tokens = next(self._told)
        except StopIteration:
            raise StopAsyncIteration from None
        if tokens is None:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "cut")
        ending = pb.ROLLOUT_ENDING_LENGTH if tokens == [5, 6] else pb.ROLLOUT_ENDING_UNSPECIFIED
        return pb.GenerateResponse(tokens=np.array(tokens, "<i8").tobytes(), ending=ending)

    def cancel(self) -> None:
        """Nothing is left to end."""


async def test_tokens_of_4_bytes_are_fed_as_the_model_takes_them() -> None:
    """They come as 8 bytes each, whatever the input has."""
    digits = model_info(rolling_models()["digits"])
    model = replace(digits, inputs=(replace(digits.inputs[0], dtype=np.dtype(np.int32)),))
    request = pb.GenerateRequest(prompt=[np.array([1, 2], "<i4").tobytes()], max_steps=4, commit=pb.COMMIT_NONE)
    calls = Calls()
    told = [message async for message in messages(calls, request, model, Backoff(QUICK), Token(None, None), lambda: None)]
    assert [np.frombuffer(each.tokens, "<i8").tolist() for each in told] == [[3, 4], [5, 6]]
    assert [np.frombuffer(each, "<i4").tolist() for each in calls.prompts] == [[1, 2], [1, 2, 3, 4]]
    assert request.max_steps == 2
