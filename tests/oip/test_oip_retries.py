"""What becomes of a request that is sent again: twice without a number, once with one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stepstream import Client, SessionClosed
from support.oip.native import same_bits, steps
from support.oip.triton import STREAMS, WAYS, Request, Triton, Way, reading, sequence

READINGS = [-1.20, -1.24, -1.29, 0.40, -1.34]


@pytest.mark.parametrize("way", WAYS)
async def test_an_unnumbered_repeat_is_another_step(triton: Triton, client: Client, way: Way) -> None:
    """As in Triton: nothing tells it from a reading that is the same by chance."""
    start, step, *_ = sequence(5, *READINGS)
    (answers,) = await triton.infer(way, [start, step, step])
    same_bits(answers, await steps(client, "ecg", [READINGS[0], READINGS[1], READINGS[1]]))
    assert [answer.seq for answer in answers] == [0, 1, 2]


@pytest.mark.parametrize("way", WAYS)
async def test_a_numbered_repeat_is_the_same_step(triton: Triton, client: Client, way: Way) -> None:
    """The same answer to the bit, under the same number; the state has moved once."""
    start, step, _, later, _ = (replace(each, seq=seq) for seq, each in enumerate(sequence(5, *READINGS)))
    (answers,) = await triton.infer(way, [start, step, step, replace(step, id="again"), replace(later, seq=2)])
    expected = await steps(client, "ecg", [READINGS[0], READINGS[1], READINGS[3]])
    same_bits(answers, [expected[each] for each in (0, 1, 1, 1, 2)])
    assert [answer.seq for answer in answers] == [0, 1, 1, 1, 2]
    assert answers[3].id == "again"
    assert (await client.get_session("ecg", "int:5")).next_seq == 3


@pytest.mark.parametrize("way", STREAMS)
async def test_a_numbered_repeat_joins_the_step_that_is_under_way(triton: Triton, client: Client, way: Way) -> None:
    """Sent before the first was answered, it has that one's outcome."""
    requests = [replace(each, seq=seq, end=False) for seq, each in enumerate(sequence(5, *READINGS))]
    twice = [request for request in requests[1:] for _ in range(2)]
    (answers,) = await triton.infer(way, [requests[0], *twice], at_once=True)
    expected = await steps(client, "ecg", READINGS)
    same_bits(answers, [expected[0], *(outputs for outputs in expected[1:] for _ in range(2))])
    assert (await client.get_session("ecg", "int:5")).next_seq == 5


@pytest.mark.parametrize("way", WAYS)
async def test_a_numbered_end_may_be_repeated(triton: Triton, client: Client, way: Way) -> None:
    """Its answer is kept for a while though its session is gone."""
    start, end = (replace(each, seq=seq) for seq, each in enumerate(sequence(5, *READINGS[:2])))
    (answers,) = await triton.infer(way, [start, end, end, end])
    expected = await steps(client, "ecg", READINGS[:2])
    same_bits(answers, [expected[each] for each in (0, 1, 1, 1)])
    with pytest.raises(SessionClosed):
        await client.get_session("ecg", "int:5")


@pytest.mark.parametrize("numbered", [False, True], ids=["unnumbered", "numbered"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_start_that_is_repeated_begins_again(triton: Triton, client: Client, way: Way, numbered: bool) -> None:
    """It needs no number: the second sequence is all that is left, and what was fed before is forgotten."""
    start, step, *_ = sequence(5, *READINGS)
    if numbered:
        start = replace(start, seq=0)
    (answers,) = await triton.infer(way, [start, start, step, start])
    expected = await steps(client, "ecg", READINGS[:2])
    same_bits(answers, [expected[each] for each in (0, 0, 1, 0)])
    assert {each.id: each.next_seq async for each in client.list_sessions("ecg")} == {"int:5": 1}


async def test_a_chunk_may_be_repeated(triton: Triton, client: Client) -> None:
    """By the number of its first step, whole or cut otherwise."""
    whole = Request("ecg", [reading(*READINGS)], 5, start=True, seq=0)
    part = Request("ecg", [reading(*READINGS[3:], 0.5)], 5, seq=3)
    first, again, straddling = (await triton.infer("sync", [whole, replace(whole, start=False), part]))[0]
    assert first.outputs["next"].tobytes() == again.outputs["next"].tobytes()
    expected = await steps(client, "ecg", [*READINGS, 0.5])
    np.testing.assert_array_equal(straddling.outputs["next"][0], [each["next"] for each in expected[3:]])
    assert (await client.get_session("ecg", "int:5")).next_seq == 6


@pytest.mark.parametrize("way", ["sync", "sync_stream"])
async def test_a_gap_is_refused(triton: Triton, client: Client, way: Way) -> None:
    """With the number that was expected; nothing was applied."""
    start, step, *_ = sequence(5, *READINGS)
    (answers,) = await triton.infer(way, [start, replace(step, seq=4), replace(start, seq=4), replace(step, seq=1)])
    assert [answer.error.partition(":")[0] for answer in answers] == ["", "SEQUENCE_MISMATCH", "SEQUENCE_MISMATCH", ""]
    assert answers[1].status == (None if way == "sync_stream" else "ABORTED")
    same_bits([answers[0], answers[3]], await steps(client, "ecg", READINGS[:2]))


async def test_an_answer_that_was_acknowledged_is_not_kept(triton: Triton) -> None:
    """A numbered step says that the answers below it have come."""
    start, step, later, *_ = (replace(each, seq=seq) for seq, each in enumerate(sequence(5, *READINGS)))
    (answers,) = await triton.infer("sync", [start, step, later, step])
    assert [answer.status for answer in answers] == [None, None, None, "OUT_OF_RANGE"]
    assert answers[3].error.startswith("ANSWER_DISCARDED")


@pytest.mark.parametrize("way", WAYS)
async def test_an_end_that_fails_ends_nothing(triton: Triton, client: Client, way: Way) -> None:
    """The sequence is open still, and its end may be sent again, mended."""
    start, end = sequence(5, *READINGS[:2])
    (answers,) = await triton.infer(way, [start, replace(end, inputs=[reading(float("nan"))]), end])
    assert answers[1].error.startswith("NON_FINITE_INPUT")
    same_bits([answers[0], answers[2]], await steps(client, "ecg", READINGS[:2]))
    assert [each.id async for each in client.list_sessions("ecg")] == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_start_that_fails_replaces_nothing(triton: Triton, client: Client, way: Way) -> None:
    """The sequence of that id goes on as if nothing had been said."""
    start, step, *_ = sequence(5, *READINGS)
    (answers,) = await triton.infer(way, [start, replace(start, inputs=[reading(float("inf"))]), step])
    assert answers[1].error.startswith("NON_FINITE_INPUT")
    same_bits([answers[0], answers[2]], await steps(client, "ecg", READINGS[:2]))
