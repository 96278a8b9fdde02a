"""Inputs are checked before anything is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from stepstream import Client, ClientOptions, InputOutOfRange, InvalidInput, NonFiniteInput
from support.servicer import FakeServicer

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
