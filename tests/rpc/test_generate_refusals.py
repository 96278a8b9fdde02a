"""Rollouts that the front door or the engine refuses: told by the field that is to blame, and nobody is harmed."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.callers import Party
from stepstream_server.rpc.generate import decode_generate
from stepstream_server.spec import TensorSpec
from support.backend import FakeBackend
from support.echo import ring_backend, ring_spec, walk_backend, walk_spec
from support.front_door import CountingStream, FrontDoor, front_door
from support.generating import check_nothing_rolls, floats, refusal, request, tokens, whole
from support.wide import WideBackend, wide_spec

INVALID, TOO_LARGE = ("INVALID_ARGUMENT", "INVALID_ARGUMENT"), ("RESOURCE_EXHAUSTED", "BLOCK_TOO_LARGE")
EACH, NONE = inference_pb2.COMMIT_EACH, inference_pb2.COMMIT_NONE
LONG_ID = "x" * 129
STEPS = 20  # that a message may have


@pytest_asyncio.fixture
async def ring() -> AsyncIterator[FrontDoor]:
    """A front door of the model `ring`, with a session `s` that has made one step."""
    settings = DoorSettings(max_block_steps=STEPS)
    async with front_door("ring", spec=ring_spec, backend=ring_backend, settings=settings, max_rollout_paths=16) as front:
        await open_session(front, "ring", 0)
        yield front


async def open_session(front: FrontDoor, model: str, value: float, id: str = "s") -> bytes:
    """A session that has made one step. Returns its secret."""
    opened = await front.sessions.OpenSession(session_pb2.OpenSessionRequest(model=model, id=id))
    await step(front, model, value, 0, id)
    secret: bytes = opened.secret
    return secret


async def step(front: FrontDoor, model: str, value: float, seq: int, id: str = "s") -> None:
    """A step of the session, which is applied."""
    step = inference_pb2.StepRequest(model=model, session_id=id, seq=seq)
    step.inputs["token" if model == "ring" else "x"].numbers.append(value)
    assert (await front.inference.Step(step)).next_seq == seq + 1


WRONG_OF_TOKENS: dict[str, tuple[dict[str, Any], tuple[str, str], str, str]] = {
    "no draws": ({"max_steps": 0}, INVALID, "max_steps", "expected at least 1, got 0"),
    "heat is no number": ({"temperature": np.nan}, INVALID, "temperature", "expected a finite number, 0 or more, got nan"),
    "endless heat": ({"temperature": np.inf}, INVALID, "temperature", "expected a finite number, 0 or more, got inf"),
    "cold below zero": ({"temperature": -0.5}, INVALID, "temperature", "expected a finite number, 0 or more, got -0.5"),
    "more than all": ({"top_p": 1.5}, INVALID, "top_p", "expected a number from 0 to 1, got 1.5"),
    "less than nothing": ({"top_p": -0.1}, INVALID, "top_p", "expected a number from 0 to 1, got -0.1"),
    "a share that is no number": ({"top_p": np.nan}, INVALID, "top_p", "expected a number from 0 to 1, got nan"),
    "an unknown commit": ({"commit": 7}, INVALID, "commit", "expected END, EACH or NONE, got 7"),
    "a negative commit": ({"commit": -1}, INVALID, "commit", "expected END, EACH or NONE, got -1"),
    "levels of one path": ({"levels": [0.5]}, INVALID, "levels", "expected none, since there is but one path, got [0.5]"),
    "paths of tokens": (
        {"paths": 2, "commit": NONE, "temperature": 1.0}, INVALID, "paths", "expected 1, since tokens have no quantiles, got 2",
    ),
    "half a token": ({"prompt": [tokens(1)[:-1]]}, INVALID, "prompt[0]", "expected a multiple of 8 bytes, got 7"),
    "a prompt of two inputs": (
        {"prompt": [tokens(1), tokens(1)]}, INVALID, "prompt", "expected one entry, for input 'token', got 2",
    ),
    "a prompt of two inputs, one empty": (
        {"prompt": [b"", tokens(1)]}, INVALID, "prompt", "expected one entry, for input 'token', got 2",
    ),
    "a token too high": (
        {"prompt": [tokens(1, 8, 9)]}, ("INVALID_ARGUMENT", "INPUT_OUT_OF_RANGE"), "prompt[0]", "expected 0 <= token < 8, got 8",
    ),
    "a token below zero": (
        {"prompt": [tokens(-1)]}, ("INVALID_ARGUMENT", "INPUT_OUT_OF_RANGE"), "prompt[0]", "expected 0 <= token < 8, got -1",
    ),
    "a prompt too long": (
        {"prompt": [tokens(*[0] * (STEPS + 1))]}, TOO_LARGE, "prompt[0]", f"expected at most {STEPS} steps, got {STEPS + 1}",
    ),
    "too many stops": ({"stop": [tokens(1)] * 17}, INVALID, "stop", "expected at most 16 sequences, got 17"),
    "an empty stop": ({"stop": [tokens(1), b""]}, INVALID, "stop[1]", "expected 1 to 64 tokens of 8 bytes, got 0 bytes"),
    "half a stop": ({"stop": [tokens(1)[:5]]}, INVALID, "stop[0]", "expected 1 to 64 tokens of 8 bytes, got 5 bytes"),
    "a stop too long": ({"stop": [tokens(*[1] * 65)]}, INVALID, "stop[0]", "expected 1 to 64 tokens of 8 bytes, got 520 bytes"),
    "a stop that is no token": ({"stop": [tokens(1, 8)]}, INVALID, "stop[0]", "expected 0 <= token < 8, got [1, 8]"),
    "a malformed id": ({"session_id": "no spaces"}, INVALID, "session_id", "expected 1 to 128 characters"),
    "an id too long": ({"session_id": LONG_ID}, INVALID, "session_id", "expected 1 to 128 characters"),
    "a huge number": ({"session_id": "s", "seq": 2**62}, INVALID, "seq", "expected a number below 2^62"),
    "no such model": ({"model": "none"}, ("NOT_FOUND", "MODEL_NOT_FOUND"), "model", "'none' is not served"),
    "no such version": ({"version": 3}, ("NOT_FOUND", "MODEL_NOT_FOUND"), "version", "has no version 3"),
    "no such session": ({"session_id": "t"}, ("NOT_FOUND", "SESSION_NOT_FOUND"), "session_id", "there is no session 't'"),
    "another's session": (
        {"session_id": "s", "secret": b"guess"}, ("PERMISSION_DENIED", "SECRET_MISMATCH"), "secret", "",
    ),
    "from nothing": ({"prompt": []}, INVALID, "prompt", "expected at least one step"),
    "a number ahead": ({"session_id": "s", "seq": 4}, ("ABORTED", "SEQUENCE_MISMATCH"), "seq", "expected 1"),
    "a number passed": ({"session_id": "s", "seq": 0}, ("ABORTED", "SEQUENCE_MISMATCH"), "seq", "expected 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_OF_TOKENS)
async def test_a_wrong_rollout_of_tokens_is_refused_by_name(ring: FrontDoor, case: str) -> None:
    """Code, reason and field say what to mend, the message what was expected and what came; the session goes on as it was."""
    fields, status, field, message = WRONG_OF_TOKENS[case]
    found = await refusal(ring.inference.Generate(request(**fields)))
    assert (found.code, found.reason) == status, found
    assert found.field == field, found
    assert message in found.message
    assert found.message.startswith(field) or status[1].startswith(("SESSION", "SECRET"))
    assert found.expected_seq == (1 if status[0] == "ABORTED" else None)
    await check_nothing_rolls(ring)
    await step(ring, "ring", 3, 1)
    assert (await whole(ring.inference.Generate(request(session_id="s", prompt=[])))).tokens == [4, 5, 6]


WRONG_OF_NUMBERS: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "top_k": ({"top_k": 5}, "INVALID_ARGUMENT", "top_k", "expected 0, since the model draws no tokens, got 5"),
    "top_p": ({"top_p": 0.5}, "INVALID_ARGUMENT", "top_p", "expected 0, since the model draws no tokens, got 0.5"),
    "stop": ({"stop": [tokens(1)]}, "INVALID_ARGUMENT", "stop", "expected none, since the model draws no tokens, got 1"),
    "half a number": ({"prompt": [b"abc"]}, "INVALID_ARGUMENT", "prompt[0]", "expected a multiple of 4 bytes, got 3"),
    "NaN": ({"prompt": [floats(1, np.nan)]}, "NON_FINITE_INPUT", "prompt[0]", "expected finite numbers, got NaN or infinity"),
    "infinity": ({"prompt": [floats(-np.inf)]}, "NON_FINITE_INPUT", "prompt[0]", "expected finite numbers, got NaN or infinity"),
    "too many paths": ({"paths": 1025}, "INVALID_ARGUMENT", "paths", "expected at most 1024, got 1025"),
    "paths that commit": (
        {"paths": 2, "commit": 0}, "INVALID_ARGUMENT", "commit", "expected NONE, since there are several paths, got END",
    ),
    "paths that commit each step": (
        {"paths": 2, "commit": EACH}, "INVALID_ARGUMENT", "commit", "expected NONE, since there are several paths, got EACH",
    ),
    "paths without heat": (
        {"paths": 2, "temperature": 0}, "INVALID_ARGUMENT", "temperature",
        "expected more than 0, since several paths would be the same one, got 0",
    ),
    "outputs of paths": (
        {"paths": 2, "outputs": True}, "INVALID_ARGUMENT", "outputs", "expected false, since there are several paths, got true",
    ),
    "levels that fall": (
        {"levels": [0.5, 0.1], "paths": 2}, "INVALID_ARGUMENT", "levels",
        "expected ascending numbers between 0 and 1, got [0.5, 0.1]",
    ),
    "levels twice": (
        {"levels": [0.5, 0.5], "paths": 2}, "INVALID_ARGUMENT", "levels",
        "expected ascending numbers between 0 and 1, got [0.5, 0.5]",
    ),
    "a level of 0": ({"levels": [0.0], "paths": 2}, "INVALID_ARGUMENT", "levels", "between 0 and 1, got [0.0]"),
    "a level of 1": ({"levels": [1.0], "paths": 2}, "INVALID_ARGUMENT", "levels", "between 0 and 1, got [1.0]"),
    "a level that is no number": ({"levels": [np.nan], "paths": 2}, "INVALID_ARGUMENT", "levels", "between 0 and 1, got [nan]"),
    "many levels": (
        {"levels": [n / 101 for n in range(1, 101)], "paths": 2}, "INVALID_ARGUMENT", "levels", "expected at most 99, got 100",
    ),
    "more paths than there is room for": ({"paths": 9}, "QUEUE_FULL", "", "no room for another rollout of this caller"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_OF_NUMBERS)
async def test_a_wrong_rollout_of_numbers_is_refused_by_name(case: str) -> None:
    """The same of a model that predicts quantiles of a number."""
    fields, reason, field, message = WRONG_OF_NUMBERS[case]
    async with front_door("walk", spec=walk_spec, backend=walk_backend, max_rollout_paths=16) as front:
        await open_session(front, "walk", 1.0)
        plain = {"model": "walk", "prompt": [floats(1)], "commit": NONE, "temperature": 1.0, "session_id": "s"}
        found = await refusal(front.inference.Generate(request(**{**plain, **fields})))
        assert (found.reason, found.field) == (reason, field), found
        assert message in found.message
        await check_nothing_rolls(front, "walk")
        await step(front, "walk", 1.0, 1)


async def test_a_value_is_no_distribution(front: FrontDoor) -> None:
    """A regression cannot be drawn from at random, so that it has no paths either."""
    hot: list[dict[str, Any]] = [{"temperature": 1.0}, {"temperature": 0.1, "paths": 2, "commit": NONE}]
    for fields in hot:
        found = await refusal(front.inference.Generate(request(model="counter", prompt=[floats(1)], **fields)))
        assert (found.reason, found.field) == ("INVALID_ARGUMENT", "temperature")
        assert "expected 0, since output 'sum' is a value and no distribution" in found.message
    await check_nothing_rolls(front, "counter")


async def test_what_predicts_nothing_of_its_own_cannot_be_rolled_out() -> None:
    """A model without such an output says so."""
    async with front_door("wide", spec=wide_spec(1), backend=lambda: WideBackend(width=1)) as front:
        found = await refusal(front.inference.Generate(request(model="wide", prompt=[floats(1)])))
        assert (found.reason, found.field) == ("INVALID_ARGUMENT", "model")
        assert "'wide' has no output that predicts its next input" in found.message


@pytest.mark.parametrize(("largest", "most"), [(4 << 20, 1024), (1024, 222)])
def test_outputs_too_large_are_not_begun(largest: int, most: int) -> None:
    """Beyond 4 KiB per step, or what a message holds; without them it goes."""
    settings = DoorSettings(max_message_bytes=largest)
    for width in (most, most + 1):
        spec = dataclasses.replace(ring_spec("ring"), outputs=(TensorSpec("next", "float32", (width,)),))
        assert not decode_generate(request(), spec, settings, Party()).outputs
        if width == most:
            assert decode_generate(request(outputs=True), spec, settings, Party()).outputs
            continue
        with pytest.raises(CallerError, match=f"at most {4 * most} bytes of outputs per step") as refused:
            decode_generate(request(outputs=True), spec, settings, Party())
        assert (refused.value.reason, refused.value.field) == (Reason.BLOCK_TOO_LARGE, "outputs")


async def test_what_a_stop_sequence_held_back_may_be_more_than_a_message() -> None:
    """It is told in several."""
    small = DoorSettings(max_message_bytes=1024)
    async with front_door("ring", spec=ring_spec, backend=ring_backend, settings=small) as front:
        drawn = [number % 8 for number in range(1, 101)]
        nearly = tokens(*drawn[:63], 1)
        found = await whole(front.inference.Generate(request(max_steps=100, outputs=True, stop=[nearly])))
        assert found.tokens == drawn
        assert max(each.ByteSize() for each in found.messages) <= 1024


async def test_a_session_that_ended_says_how(ring: FrontDoor) -> None:
    """Closed, for one; the field is the rollout's own."""
    await ring.sessions.CloseSession(session_pb2.CloseSessionRequest(model="ring", id="s"))
    found = await refusal(ring.inference.Generate(request(session_id="s")))
    assert (found.code, found.reason, found.field) == ("NOT_FOUND", "SESSION_CLOSED", "session_id")


async def test_what_a_stream_holds_needs_the_secret(ring: FrontDoor) -> None:
    """A rollout never takes a session over; with the secret it queues behind what is pending."""
    async with CountingStream(ring.channel) as stream:
        (held,) = await stream.open("ring", [0])
        found = await refusal(ring.inference.Generate(request(session_id=held.id)))
        assert (found.code, found.reason, found.field) == ("FAILED_PRECONDITION", "SESSION_IN_USE", "secret")
        told = await whole(ring.inference.Generate(request(session_id=held.id, secret=held.secret, seq=0)))
        assert (told.tokens, told.next_seq) == ([1, 2, 3], 4)


async def test_there_is_room_for_so_many_paths_and_no_more(ring: FrontDoor) -> None:
    """Beyond them rollouts are told to come back soon; each that ends makes room."""
    going = [ring.inference.Generate(request(max_steps=2**32 - 1)) for _ in range(8)]
    for call in going:
        await call.read()
    found = await refusal(ring.inference.Generate(request()))
    assert (found.code, found.reason, found.field, found.retry_ms) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL", "", 100)
    for call in going:
        call.cancel()
    await check_nothing_rolls(ring)
    assert (await whole(ring.inference.Generate(request()))).tokens == [1, 2, 3]


async def test_one_rollout_at_a_time_commits(ring: FrontDoor) -> None:
    """Another that commits, and steps, hear that the session is in use; one that commits nothing may run beside it."""
    going = ring.inference.Generate(request(session_id="s", max_steps=2**32 - 1, commit=EACH))
    await going.read()
    for commit in (inference_pb2.COMMIT_END, EACH):
        found = await refusal(ring.inference.Generate(request(session_id="s", commit=commit)))
        assert (found.code, found.reason) == ("FAILED_PRECONDITION", "SESSION_IN_USE"), found
        assert found.expected_seq
    told = await whole(ring.inference.Generate(request(session_id="s", commit=NONE)))
    assert told.tokens == [1, 2, 3]
    going.cancel()
    await check_nothing_rolls(ring)


async def test_numbers_that_leave_the_numbers_end_it() -> None:
    """A sum that doubles until that is too much: what came before is told, then why it ends; a session is left as it was, unless
    each step was its own."""
    async with front_door(backend=lambda: FakeBackend(poison=64.0)) as front:
        await open_session(front, "counter", 1.0)
        wanted = request(model="counter", session_id="s", prompt=[], max_steps=1000)
        call = front.inference.Generate(wanted)
        told = []
        with pytest.raises(Exception, match="non-finite"):
            async for message in call:
                told += np.frombuffer(message.values, "<f4").tolist()
        assert told == [1, 2, 4, 8, 16, 32]
        await step(front, "counter", 1.0, 1)
        found = await refusal(front.inference.Generate(request(model="counter", session_id="s", prompt=[], max_steps=1000)))
        assert (found.code, found.reason, found.expected_seq) == ("FAILED_PRECONDITION", "NON_FINITE_STATE", 2)
        wanted.commit = EACH
        found = await refusal(front.inference.Generate(wanted))
        session = (await front.sessions.GetSession(session_pb2.GetSessionRequest(model="counter", id="s"))).session
        assert (found.reason, found.expected_seq) == ("NON_FINITE_STATE", session.next_seq)
        assert session.next_seq == 7
        found = await refusal(front.inference.Generate(wanted))
        assert found.reason == "SESSION_QUARANTINED"
