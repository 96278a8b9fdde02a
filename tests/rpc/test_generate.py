"""What a rollout answers: its draws, their numbers, outputs and quantiles, how it ended, and in which messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from stepstream_proto.v1 import inference_pb2, model_pb2, session_pb2
from stepstream_server.access import Access
from stepstream_server.engine.ports import (
    NO_SEQ,
    NO_STREAM,
    PIECE,
    Begun,
    Commit,
    Delivery,
    Detached,
    Generate,
    Limits,
    Reply,
    Rolled,
    RolloutEnding,
    RowErrors,
    Took,
)
from stepstream_server.engine.rollouts.sampling import chances
from stepstream_server.rpc import EngineClient
from stepstream_server.rpc.generate import RolloutCaller
from stepstream_server.rpc.quotas import Pace, Quotas
from support.echo import TOKENS, ended_spec, ring, ring_backend, ring_spec, walk_backend, walk_spec
from support.front_door import CollectingDoor, CountingStream, FrontDoor, front_door
from support.generating import check_nothing_rolls, floats, refusal, request, tokens, whole

END, EACH, NONE = inference_pb2.COMMIT_END, inference_pb2.COMMIT_EACH, inference_pb2.COMMIT_NONE
STOPPED, FULL = inference_pb2.ROLLOUT_ENDING_STOP, inference_pb2.ROLLOUT_ENDING_LENGTH


@pytest_asyncio.fixture
async def ring_door() -> AsyncIterator[FrontDoor]:
    """A front door of the model `ring`."""
    async with front_door("ring", spec=ring_spec, backend=ring_backend) as front:
        yield front


async def session(front: FrontDoor, id: str = "s", model: str = "ring") -> session_pb2.Session:
    """As it is told of."""
    response = await front.sessions.GetSession(session_pb2.GetSessionRequest(model=model, id=id))
    found: session_pb2.Session = response.session
    return found


async def opened(front: FrontDoor, id: str = "s", model: str = "ring") -> bytes:
    """A new session. Returns its secret."""
    secret: bytes = (await front.sessions.OpenSession(session_pb2.OpenSessionRequest(model=model, id=id))).secret
    return secret


async def test_draws_are_numbered_behind_the_prompt(ring_door: FrontDoor) -> None:
    """The first one follows the prompt's last step, and all of them have been fed when the rollout ends."""
    told = await whole(ring_door.inference.Generate(request(prompt=[tokens(6, 6, 2)], max_steps=7)))
    assert told.tokens == [3, 4, 5, 6, 7, 0, 1]
    assert (told.first_seq, told.next_seq, told.ending) == (3, 10, FULL)
    assert not told.values
    await check_nothing_rolls(ring_door)


async def test_a_stop_sequence_is_fed_and_not_told(ring_door: FrontDoor) -> None:
    """Its beginning is held back until it is clear what it is; where it is not completed it is told after all."""
    told = await whole(ring_door.inference.Generate(request(max_steps=20, stop=[tokens(5, 7), tokens(3, 4, 5)])))
    assert (told.tokens, told.next_seq, told.ending) == ([1, 2], 6, STOPPED)
    told = await whole(ring_door.inference.Generate(request(max_steps=20, stop=[tokens(1)])))
    assert (told.tokens, told.first_seq, told.next_seq, told.ending) == ([], 1, 2, STOPPED)
    told = await whole(ring_door.inference.Generate(request(max_steps=4, stop=[tokens(3, 4, 5)])))
    assert (told.tokens, told.next_seq, told.ending) == ([1, 2, 3, 4], 5, FULL)


async def test_a_model_ends_its_rollouts_itself() -> None:
    """By its own stops, beside those of the caller, of which it may have as many as ever."""
    async with front_door("ring", spec=ended_spec, backend=ring_backend) as front:
        told = await whole(front.inference.Generate(request(prompt=[tokens(3)], max_steps=20)))
        assert (told.tokens, told.next_seq, told.ending) == ([4], 3, STOPPED)
        told = await whole(front.inference.Generate(request(prompt=[tokens(0)], max_steps=20)))
        assert (told.tokens, told.next_seq, told.ending) == ([1], 4, STOPPED)
        told = await whole(front.inference.Generate(request(prompt=[tokens(5)], max_steps=20, stop=[tokens(7)] * 16)))
        assert (told.tokens, told.next_seq, told.ending) == ([6], 3, STOPPED)


async def test_outputs_follow_their_steps(ring_door: FrontDoor) -> None:
    """Each is what the model gave once its step had been fed, also where a stop sequence holds steps back."""
    for stop in ([], [tokens(3, 4, 6)]):
        told = await whole(ring_door.inference.Generate(request(max_steps=9, outputs=True, stop=stop)))
        outputs = [np.frombuffer(each.outputs[0], "<f4") for each in told.messages if each.outputs]
        np.testing.assert_array_equal(np.concatenate(outputs).reshape(-1, TOKENS), ring(np.array(told.tokens)))
        assert len(told.tokens) == 9


async def test_numbers_are_told_as_values(front: FrontDoor) -> None:
    """A model that predicts a value: float32, and no tokens."""
    told = await whole(front.inference.Generate(request(model="counter", prompt=[floats(1, 2)], max_steps=5, outputs=True)))
    assert told.values == [3, 6, 12, 24, 48]
    assert (told.first_seq, told.next_seq, told.tokens) == (2, 7, [])
    sums = b"".join(each.outputs[0] for each in told.messages)
    counts = b"".join(each.outputs[1] for each in told.messages)
    assert np.frombuffer(sums, "<f4").tolist() == [6, 12, 24, 48, 96]
    assert np.frombuffer(counts, "<f4").tolist() == [3, 4, 5, 6, 7]


@pytest.mark.parametrize("levels", [[], [0.25, 0.5], [0.01]])
async def test_paths_are_told_as_quantiles(levels: list[float]) -> None:
    """Of each step, level by level, of draws that anybody can do again from the seed."""
    async with front_door("walk", spec=walk_spec, backend=walk_backend) as front:
        wanted = request(
            model="walk", prompt=[floats(0, 5)], max_steps=6, temperature=1.0, seed=9, commit=NONE, paths=7, levels=levels
        )
        told = await whole(front.inference.Generate(wanted))
        assert (told.first_seq, told.next_seq, told.ending) == (2, 8, FULL)
        paths, expected = np.full(7, 5.0), []
        for seq in range(2, 8):
            chance = np.array([chances(9, seq, path, 1)[0] for path in range(7)])
            paths = paths + (chance - 0.5) / 0.4  # quantiles -1, 0, 1 at levels 0.1, 0.5, 0.9, straight on beyond them
            expected.append(np.quantile(paths, levels or [0.1, 0.5, 0.9]))
        np.testing.assert_allclose(told.values, np.concatenate(expected), rtol=1e-5, atol=1e-5)


async def test_what_is_committed_is_told_of_the_session(ring_door: FrontDoor) -> None:
    """By its end, at once, or never; with a number everything below is acknowledged."""
    await opened(ring_door)
    told = await whole(ring_door.inference.Generate(request(session_id="s", seq=0, commit=NONE)))
    assert (told.next_seq, (await session(ring_door)).next_seq) == (4, 0)
    for commit, following in ((END, 4), (EACH, 8), (0, 12)):
        told = await whole(ring_door.inference.Generate(request(session_id="s", seq=following - 4, commit=commit)))
        found = await session(ring_door)
        assert (told.next_seq, found.next_seq, found.acked) == (following, following, following)
    again = request(session_id="s", prompt=[], max_steps=2)
    assert (await whole(ring_door.inference.Generate(again))).tokens == [4, 5]


async def test_a_rollout_begins_behind_what_is_pending(ring_door: FrontDoor) -> None:
    """Beside a stream, with the session's secret: after all steps that were sent before."""
    async with CountingStream(ring_door.channel) as stream:
        (held,) = await stream.open("ring", [0])
        gate = ring_door.models["ring"].gate
        gate.close()
        await stream.send(inference_pb2.StreamRequest(block=_block([0], tokens(1, 2, 3, 4))))
        await stream.all_read()
        call = ring_door.inference.Generate(request(session_id=held.id, secret=held.secret, prompt=[], seq=4))
        gate.open()
        told = await whole(call)
        assert (told.tokens, told.first_seq) == ([5, 6, 7], 4)
        assert (await stream.receive()).answers.handles


def _block(firsts: list[int], values: bytes) -> inference_pb2.Block:
    """Steps of handle 0."""
    lengths, seqs = np.array([len(values) // 8], "<u4").tobytes(), np.array(firsts, "<u8").tobytes()
    return inference_pb2.Block(handles=bytes(4), first_seqs=seqs, lengths=lengths, inputs=[values])


async def test_closing_a_session_ends_its_rollout(ring_door: FrontDoor) -> None:
    """The rollout says that it was closed; one that commits nothing goes on without it."""
    secret = await opened(ring_door)
    committing = ring_door.inference.Generate(request(session_id="s", max_steps=2**32 - 1))
    await committing.read()
    apart = ring_door.inference.Generate(request(session_id="s", max_steps=1000, commit=NONE))
    await apart.read()
    await ring_door.sessions.CloseSession(session_pb2.CloseSessionRequest(model="ring", id="s", secret=secret))
    found = await refusal(committing)
    assert (found.code, found.reason, found.expected_seq) == ("NOT_FOUND", "SESSION_CLOSED", None)
    assert (await whole(apart)).next_seq == 1001
    await check_nothing_rolls(ring_door)


async def test_a_model_tells_how_it_is_rolled_out(ring_door: FrontDoor) -> None:
    """The codec of its text, the output that is fed back, and the words, which a list of models leaves out."""
    (listed,) = (await ring_door.catalogue.ListModels(model_pb2.ListModelsRequest())).models
    got = (await ring_door.catalogue.GetModel(model_pb2.GetModelRequest(name="ring"))).model
    words = [f"word {number}" for number in range(TOKENS)]
    assert (got.rollout_output, got.inputs[0].text.codec, got.inputs[0].text.vocabulary) == ("next", "words", words)
    assert (got.text, got.words) == ("words", words)  # for clients that look there
    assert not got.outputs[0].labels  # the vocabulary says them
    assert not (got.inputs[0].text.HasField("unknown") or got.HasField("rollout_temperature"))
    for lists in (got.words, got.inputs[0].text.vocabulary):
        del lists[:]
    assert listed == got
    async with front_door("walk", spec=walk_spec, backend=walk_backend) as front:
        walk = (await front.catalogue.GetModel(model_pb2.GetModelRequest(name="walk"))).model
        assert (walk.text, walk.rollout_output, walk.inputs[0].HasField("text")) == ("", "next", False)
    async with front_door("ring", spec=ended_spec, backend=ring_backend) as front:
        ended = (await front.catalogue.GetModel(model_pb2.GetModelRequest(name="ring"))).model
        assert (ended.inputs[0].text.unknown, ended.inputs[0].text.lower, ended.rollout_temperature) == (0, True, 0.0)
        assert (ended.HasField("rollout_temperature"), ended.text, list(ended.words)) == (True, "", [])
        assert list(ended.outputs[0].labels) == [f"{number}" for number in range(TOKENS)]


# Messages ------------------------------------------------------------------------------------------------------------


class Teller:
    """In an engine's place: a rollout that is told as a test wants it."""

    def __init__(self, max_message_bytes: int, quotas: Quotas | None = None, **wanted: Any) -> None:
        """quotas: of tenant `a`, which is the caller's."""
        spec = ring_spec("ring")
        self._engine = CollectingDoor()
        self.door = EngineClient(spec, Limits(1024, 1 << 20, 64, 1024, 60.0, 1), asyncio.get_running_loop())
        self.door.open(self._engine)
        caller = RolloutCaller(5, self.door, max_message_bytes, Pace(quotas or Quotas(None), "a"))
        plain = Generate(NO_STREAM, 0, "", b"", NO_SEQ, Commit.NONE, (), 1000, 0.0, **wanted)
        self.messages = caller.run(plain)
        self._outputs = bool(wanted.get("outputs"))
        self._seq = 0

    @property
    def taken(self) -> list[int]:
        """How many draws the engine was told to be taken, each time."""
        return [each.draws for each in self._engine.commands if isinstance(each, Took)]

    def begin(self) -> None:
        """The rollout has begun."""
        (asked,) = (each for each in self._engine.commands if isinstance(each, Generate))
        assert asked.stream == 5
        self.door.hear(Delivery([Reply(asked.request, Begun(0))], None, RowErrors(), Detached()))

    def tell(self, *counts: int, ending: bool = False) -> None:
        """Pieces of so many draws, each told in a turn of its own."""
        for place, count in enumerate(counts):
            over = ending and place == len(counts) - 1
            piece = (5, self._seq, count, self._seq + count, RolloutEnding.LENGTH * over, count, count * self._outputs)
            drawn = np.arange(self._seq, self._seq + count)
            outputs = ring(drawn) if self._outputs else np.zeros((0, TOKENS), np.float32)
            rolled = Rolled(np.array([piece], PIECE), drawn, (outputs,))
            self.door.hear(Delivery([], None, RowErrors(), Detached(), rolled=rolled))
            self._seq += count


async def test_whoever_waits_for_a_rate_reads_all_the_same() -> None:
    """The engine hears so again and again, else it would end the rollout as one that nobody reads."""
    quotas = Quotas(Access.model_validate({"tenants": {"a": {"steps_per_second": 0.001}}}))
    teller = Teller(1 << 20, quotas)
    first = asyncio.ensure_future(anext(teller.messages))
    while not teller._engine.commands:  # noqa: ASYNC110  # submitted at the end of a round of the loop
        await asyncio.sleep(0)
    teller.begin()
    teller.tell(1)
    assert (await first).next_seq == 1
    teller.tell(20)
    rate = quotas.rate("a")
    assert rate is not None
    assert rate.wait > 20_000  # what has been computed counts, though its reader may leave
    teller.tell(1, ending=True)
    last = asyncio.ensure_future(anext(teller.messages))
    while teller.taken != [0, 0]:
        assert not last.done()
        await asyncio.sleep(0)
    quotas.replace(Access.model_validate({"tenants": {"a": {}}}))
    assert [(await last).next_seq, *[each.next_seq async for each in teller.messages]][-1] == 22


@pytest.mark.parametrize("outputs", [False, True])
async def test_messages_are_few_and_never_too_large(outputs: bool) -> None:
    """All that has come since the last one was written, in as many messages as it takes; what is alone is not waited with."""
    rng = np.random.default_rng(3)
    for largest in (1024, 1500, 4096):
        teller = Teller(largest, outputs=outputs)
        first = asyncio.ensure_future(anext(teller.messages))
        while not teller._engine.commands:  # noqa: ASYNC110  # submitted at the end of a round of the loop
            await asyncio.sleep(0)
        teller.begin()
        teller.tell(1)
        messages = [await first]
        assert messages[0].next_seq == 1
        pieces = [*rng.integers(0, 20, 60).tolist(), 256]  # the last is more than any message holds
        teller.tell(*pieces, 1, ending=True)
        messages += [message async for message in teller.messages]
        drawn = np.frombuffer(b"".join(each.tokens for each in messages), "<i8")
        assert drawn.tolist() == list(range(sum(pieces) + 2))
        assert max(each.ByteSize() for each in messages) <= largest
        step_bytes = 8 + outputs * TOKENS * 4
        assert {len(each.tokens) // 8 for each in messages[1:-1]} == {(largest - 128) // step_bytes}
        assert [each.next_seq for each in messages[1:]] == [len(drawn)] * (len(messages) - 1)  # all had been applied by then
        if outputs:
            told = np.frombuffer(b"".join(each.outputs[0] for each in messages if each.outputs), "<f4")
            np.testing.assert_array_equal(told.reshape(-1, TOKENS), ring(drawn))
        assert [bool(each.ending) for each in messages] == [False] * (len(messages) - 1) + [True]
        await asyncio.sleep(0)
        assert sum(teller.taken) <= len(drawn) < sum(teller.taken) + len(messages[-1].tokens) // 8 + 32
        assert not teller.door._rollouts
