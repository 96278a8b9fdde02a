"""Inputs are checked before anything is sent."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from stepstream import Client, ClientOptions, InputOutOfRange, InvalidArgument, InvalidInput, NonFiniteInput
from stepstream._models import model_info
from stepstream._rollout import ask
from support.servicer import FakeServicer, rolling_models, told_model

PAIR = r"input 'x': expected float32 \[2\], "


@pytest.mark.parametrize(
    ("model", "value", "kind", "message"),
    [
        ("pairs", [1.0], InvalidInput, PAIR + r"got float64 \[1\]"),
        ("pairs", [[1.0, 2.0]], InvalidInput, PAIR + r"got float64 \[1, 2\]"),
        ("pairs", 1.0, InvalidInput, PAIR + r"got float64 \[\]"),
        ("pairs", ["a", "b"], InvalidInput, PAIR + "got numbers of type <U1"),
        ("pairs", [1j, 2j], InvalidInput, PAIR + "got numbers of type complex128"),
        ("pairs", [[1], [1, 2]], InvalidInput, "input 'x': expected an array"),
        ("pairs", [0, np.nan], NonFiniteInput, r"input 'x': expected finite float32 numbers, got nan at \[1\]"),
        ("pairs", [0, 1e39], NonFiniteInput, r"got inf at \[1\]"),
        (
            "pairs",
            np.ma.array([0, -999], mask=[False, True]),
            NonFiniteInput,
            r"expected float32 numbers, got a masked one at \[1\]",
        ),
        ("pairs", torch.ones(2, requires_grad=True), InvalidInput, r"expected an array of \[2\], got a Tensor .*detach\(\)"),
        ("pairs", {"y": [1, 2]}, InvalidInput, r"expected a mapping with \['x'\], got one with \['y'\]"),
        ("mixed", [1.0], InvalidInput, r"expected a mapping with \['a', 'token'\], got list"),
        ("mixed", {"a": [1.0]}, InvalidInput, r"got one with \['a'\]"),
        ("mixed", {"a": [1.0], "token": 1.0}, InvalidInput, "input 'token': expected int64 .*, got numbers of type float64"),
        ("mixed", {"a": [1.0], "token": 10}, InputOutOfRange, "input 'token': expected 0 <= value < 10, got 10"),
        ("mixed", {"a": [1.0], "token": -1}, InputOutOfRange, "got -1"),
    ],
)
async def test_a_wrong_step_is_refused_unsent(
    client: Client, servicer: FakeServicer, model: str, value: Any, kind: type[InvalidInput], message: str
) -> None:
    """The error names the input, what was expected and what came; the session is untouched."""
    async with client.open_session(model) as session:
        with pytest.raises(kind, match=message) as refused:
            await session.step(value)
        assert type(refused.value) is kind
        assert servicer.seen("block") == []
        assert session.next_seq == 0


@pytest.mark.parametrize("value", [np.ones((0, 2)), np.ones(2), np.ones((3, 1)), np.ones((1, 3, 2))])
async def test_a_wrong_chunk_is_refused_unsent(client: Client, servicer: FakeServicer, value: Any) -> None:
    """A chunk has a time axis of at least one step before the shape of a step."""
    async with client.open_session("pairs") as session:
        with pytest.raises(InvalidInput, match=r"expected float32 \[steps, 2\], got float64"):
            await session.chunk(value)
        assert servicer.seen("block") == []


async def test_inputs_of_a_chunk_agree_on_its_length(client: Client) -> None:
    """Every input of a chunk has as many steps as the first one."""
    async with client.open_session("mixed") as session:
        with pytest.raises(InvalidInput, match=r"'token': expected int64 \[2\], got int64 \[3\]"):
            await session.chunk({"a": [1.0, 2.0], "token": [1, 2, 3]})


@pytest.mark.parametrize(
    "value", [3, 3.0, np.float32(3), [3], np.array([3], np.int8), np.array([[3.0, 9.0]])[:, 0], np.array([3], ">f8"), (True + 2,)]
)
async def test_numbers_of_every_kind_are_taken(client: Client, value: Any) -> None:
    """A model of one number per step takes plain numbers; integers, byte orders and strides are no matter."""
    async with client.open_session("level") as session:
        assert (await session.step(value))["total"].tolist() == [3, -3]


async def test_text_is_taken_for_its_tokens(client: Client, servicer: FakeServicer) -> None:
    """One for a step, as many as there are for a chunk, also by name; the model has a token for what it does not know."""
    servicer.models["told"] = told_model()
    async with client.open_session("told") as session:
        assert (await session.step("cat"))["total"][0] == 1
        assert (await session.step({"word": "xylophone"}))["total"][0] == 1 + 7
        assert (await session.chunk("The mat, the cat.", "last"))["total"][0, 0] == 8 + (0 + 4 + 6 + 0 + 1 + 5)
        assert [each["total"][0] async for each in session.stream(["cat", "sat"])] == [25, 27]
        assert (await session.step(2))["total"][0] == 29


@pytest.mark.parametrize("text", ["", " ", "the cat", "cat."])
async def test_a_step_takes_text_of_one_token(client: Client, servicer: FakeServicer, text: str) -> None:
    """It has no place for more, and nothing is a step of nothing."""
    servicer.models["told"] = told_model()
    async with client.open_session("told") as session:
        with pytest.raises(InvalidInput, match=r"input 'word': expected text of one token, got (0|2) in "):
            await session.step(text)
        if not text.strip():
            with pytest.raises(InvalidInput, match=r"expected int64 \[steps\], got int64 \[0\]"):
                await session.chunk(text)


@pytest.mark.parametrize("text", ["the cat", ["the", "cat"]])
async def test_sessions_of_a_group_share_no_text(client: Client, servicer: FakeServicer, text: Any) -> None:
    """Its words are steps of one session, not one for each of several."""
    servicer.models["told"] = told_model()
    async with client.open_sessions("told", 2) as group:
        with pytest.raises(InvalidInput, match=r"input 'word': expected int64 \[2\], got "):
            await group.step(text)
        assert (await group.step(np.array([0, 1])))["total"][:, 0].tolist() == [0, 1]


async def test_text_for_numbers_is_refused(client: Client) -> None:
    """Text of a number is refused, too."""
    async with client.open_session("level") as session:
        with pytest.raises(InvalidInput, match="input 'x'"):
            await session.step("1.5")


async def test_inputs_may_be_changed_once_the_call_has_begun(client: Client) -> None:
    """What is sent is what was given."""
    async with client.open_session("level") as session:
        values = np.ones(30, np.float32)
        task = asyncio.ensure_future(session.chunk(values))
        await asyncio.sleep(0)  # lets it begin
        values[:] = 5
        assert (await task)["total"][-1, 0] == 30


@pytest.mark.parametrize("name", ["max_message_bytes", "keepalive_seconds", "call_timeout_seconds"])
def test_options_are_checked(name: str) -> None:
    """A limit that is not positive is refused by its name."""
    with pytest.raises(ValueError, match=f"{name}: expected a positive number, got 0"):
        ClientOptions(**{name: 0})  # type: ignore[arg-type]


# Of rollouts ---------------------------------------------------------------------------------------------------------


def asked(model: str, prompt: Any, stop: Any) -> list[list[int]]:
    """The stop sequences of what is sent for a rollout."""
    rollout = ask(max_steps=1, stop=stop)
    rollout.address(model_info(rolling_models()[model]), prompt)
    return [np.frombuffer(each, "<i8").tolist() for each in rollout.request.stop]


@pytest.mark.parametrize(
    ("own", "sampling", "expected"),
    [
        (None, {}, 1.0),
        (0.0, {}, 0.0),
        (0.3, {}, 0.3),
        (0.3, {"temperature": None}, 0.3),
        (0.0, {"temperature": 0.7}, 0.7),
        (0.3, {"temperature": 0}, 0.0),
        (0.3, {"greedy": True}, 0.0),
    ],
)
def test_the_caller_draws_as_the_model_unless_told(own: float | None, sampling: Any, expected: float) -> None:
    """At the temperature that the model's author chose, else at 1."""
    rollout = ask(max_steps=1, **sampling)
    rollout.address(dataclasses.replace(model_info(rolling_models()["letters"]), rollout_temperature=own), "a")
    assert rollout.request.temperature == expected


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ((1, 2), [[1, 2]]),
        (range(1, 3), [[1, 2]]),
        ([np.int64(1), 2], [[1, 2]]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        ([np.array([1, 2]), [3]], [[1, 2], [3]]),
        (np.ma.array([1, 2], mask=[False, False]), [[1, 2]]),
        (torch.tensor([1, 2]), [[1, 2]]),
        (torch.tensor([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (pd.Series([1, 2], index=[7, 8]), [[1, 2]]),
        (([each] for each in (1, 2)), [[1], [2]]),
        (np.array([], int), []),
    ],
)
def test_stop_sequences_of_many_kinds_are_taken(stop: Any, expected: list[list[int]]) -> None:
    """Of tokens without a length of their own there is one sequence, of others several."""
    assert asked("digits", [1], stop) == expected


@pytest.mark.parametrize("stop", [{"\n\n", "."}, iter(["\n\n", "."]), pd.Series(["\n\n", "."]), np.array(["\n\n", "."])])
def test_stop_sequences_of_text_come_in_any_collection(stop: Any) -> None:
    """Their order is no matter."""
    assert sorted(asked("letters", "def ", stop)) == [[10, 10], [46]]


@pytest.mark.parametrize(
    ("model", "prompt", "stop", "kind", "message"),
    [
        ("digits", [1], None, InvalidArgument, "stop: expected a sequence that ends it, or several, got None"),
        ("digits", [1], 3, InvalidArgument, "stop: expected a sequence that ends it, or several, got 3"),
        ("digits", [1], np.array(3), InvalidArgument, r"stop: expected a sequence that ends it, or several, got array\(3\)"),
        ("digits", [1], torch.tensor(3), InvalidArgument, "stop: expected a sequence that ends it, or several, got tensor"),
        ("digits", [1], [[1], 2], InvalidArgument, "stop: expected 1 to 64 tokens, got None in 2"),
        ("digits", [1], [[1], "2"], InvalidArgument, "stop: expected sequences of tokens, got '2'"),
        ("digits", [1], {1, 2}, InvalidInput, "input 'digit': expected int64 numbers, got one of type set"),
        ("digits", [1], b"12", InvalidInput, r"input 'digit': expected int64 \[steps\], got |S2"),
        ("digits", [1], [1.0], InvalidInput, r"input 'digit': expected int64 \[steps\], got numbers of type float64"),
        ("digits", [1], [None], InvalidInput, r"input 'digit': expected int64 numbers, got one of type NoneType at \[0\]"),
        ("digits", [1], [10**30], InputOutOfRange, r"input 'digit': expected int64 numbers, got 10+ at \[0\]"),
        ("digits", [1], np.ma.array([1, 2], mask=[False, True]), NonFiniteInput, r"input 'digit': .* got a masked one at \[1\]"),
        ("letters", "a", b"ab", InvalidArgument, "stop: expected sequences of text, got b'ab'"),
        ("letters", "a", [None], InvalidArgument, r"stop: expected sequences of text, got \[None\]"),
        ("letters", "a", ["x", None], InvalidArgument, "stop: expected sequences of text, got None"),
        ("letters", "a", ["\ud800"], InvalidInput, r"text: expected characters that UTF-8 has, got '\\ud800' at 0"),
        ("letters", b"a", (), InvalidInput, "prompt: expected text, since 'letters' is a model of text, got bytes"),
        ("letters", ["a"], (), InvalidInput, "prompt: expected text, since 'letters' is a model of text, got list"),
        ("digits", "12", (), InvalidInput, r"input 'digit': expected int64 \[steps\], got <U2 \[\]"),
        ("digits", [1, None], (), InvalidInput, r"input 'digit': expected int64 numbers, got one of type NoneType at \[1\]"),
        (
            "walk",
            np.ma.array([1, 2], mask=[False, True]),
            (),
            NonFiniteInput,
            r"input 'x': expected float32 .* masked one at \[1\]",
        ),
    ],
)
def test_wrong_prompts_and_stop_sequences_are_refused(
    model: str, prompt: Any, stop: Any, kind: type[InvalidArgument], message: str
) -> None:
    """As errors of this package, before anything is sent."""
    with pytest.raises(InvalidArgument, match=f"^{message}") as refused:
        asked(model, prompt, stop)
    assert type(refused.value) is kind


async def test_ids_models_and_secrets_of_a_wrong_type_are_refused_unsent(client: Client, servicer: FakeServicer) -> None:
    """Wherever they are given, and never by an error of protobuf; a secret is not shown."""
    key: Any = 7
    text: Any = "secret"
    before = len(servicer.unary.calls)
    for call in (
        lambda: client.open_session(key),
        lambda: client.open_session("level", id=key),
        lambda: client.open_sessions("level", 2, ids=[key, "b"]),
        lambda: client.open_sessions("level", 2, ids=text),
        lambda: client.attach_session("level", key, b""),
        lambda: client.attach_session("level", "a", text),
        lambda: client.import_session(text),
        lambda: client.get_session("level", key),
        lambda: client.close_session("level", "a", secret=text),
        lambda: client.step("level", key, 1.0),
        lambda: client.step("level", "a", 1.0, secret=text),
        lambda: client.fork_session("level", "a", 2, ids=text),
        lambda: client.export_session(key, "a"),
        lambda: client.generate("level", [1.0], max_steps=1, id=key).whole(),
        lambda: client.model(key),
    ):
        with pytest.raises(InvalidArgument, match=r"^(model|id|ids|ids\[0\]|secret|snapshot): expected") as refused:
            await call()
        assert "'secret'" not in refused.value.message or "ids" in refused.value.message
    assert (len(servicer.unary.calls), servicer.received) == (before, [])


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": "1"}, {"top_k": 1.5}, {"top_p": "x"}, {"commit": ["end"]}, {"seed": "1"}],
    ids=lambda sampling: next(iter(sampling)),
)
async def test_keywords_of_a_wrong_type_are_named(client: Client, sampling: dict[str, Any]) -> None:
    """By the client, before anything is sent."""
    with pytest.raises(InvalidArgument, match=f"^{next(iter(sampling))}: expected"):
        client.generate("level", None, max_steps=1, **sampling)
