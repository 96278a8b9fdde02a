"""Sequences that begin, end and begin again under one id while their requests are under way together on a stream."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepstream import Client
from support.oip.native import same_bits, steps
from support.oip.triton import STREAMS, Answer, Request, Triton, Way, reading, sequence

READINGS = [-1.20, -1.24, -1.29, 0.40, -1.34]
OTHERS = [0.10, 0.25, -0.75, 1.5, 0.5]

pytestmark = pytest.mark.parametrize("way", STREAMS)


def numbered(requests: list[Request]) -> list[Request]:
    """The same with their steps' numbers."""
    return [replace(request, seq=seq) for seq, request in enumerate(requests)]


def reasons(answers: list[Answer]) -> list[str]:
    """Why each was refused, empty where it was not."""
    return [answer.error.partition(":")[0] for answer in answers]


@pytest.mark.parametrize("ended", [False, True], ids=["replaced", "ended"])
async def test_a_sequence_after_the_other(triton: Triton, client: Client, way: Way, ended: bool) -> None:
    """Ended or not, the first one's steps are all answered, and the second begins at the initial state."""
    first = sequence(5, *READINGS)
    if not ended:
        first[-1] = replace(first[-1], end=False)
    (answers,) = await triton.infer(way, [*first, *sequence(5, *OTHERS)], at_once=True)
    same_bits(answers, [*await steps(client, "ecg", READINGS), *await steps(client, "ecg", OTHERS)])
    assert [answer.seq for answer in answers] == [0, 1, 2, 3, 4] * 2
    assert [each.id async for each in client.list_sessions("ecg")] == []


async def test_sequences_of_one_request_each(triton: Triton, client: Client, way: Way) -> None:
    """Start and end at once, many times under one id: each answer is a first step's."""
    requests = [Request("ecg", [reading(value)], 5, start=True, end=True) for value in READINGS * 8]
    (answers,) = await triton.infer(way, requests, at_once=True)
    same_bits(answers, [(await steps(client, "ecg", [value]))[0] for value in READINGS] * 8)
    assert [each.id async for each in client.list_sessions("ecg")] == []


async def test_steps_behind_an_end_are_refused(triton: Triton, client: Client, way: Way) -> None:
    """Also those that were sent before the end was applied; a start behind them is welcome."""
    start, end = sequence(5, *READINGS[:2])
    step = replace(end, end=False)
    (answers,) = await triton.infer(way, [start, end, step, step, start, step], at_once=True)
    assert reasons(answers) == ["", "", "SESSION_CLOSED", "SESSION_CLOSED", "", ""]
    expected = await steps(client, "ecg", READINGS[:2])
    same_bits([answers[each] for each in (0, 1, 4, 5)], expected * 2)


async def test_everything_numbered_and_sent_twice(triton: Triton, client: Client, way: Way) -> None:
    """A start that is repeated at once begins again, which costs nothing; steps and the end count once."""
    requests = numbered(sequence(5, *READINGS))
    (answers,) = await triton.infer(way, [request for request in requests for _ in range(2)], at_once=True)
    expected = await steps(client, "ecg", READINGS)
    same_bits(answers, [outputs for outputs in expected for _ in range(2)])
    assert [each.id async for each in client.list_sessions("ecg")] == []


async def test_a_whole_sequence_sent_again(triton: Triton, client: Client, way: Way) -> None:
    """As a client does that has lost everything: it begins again, and gets the same answers."""
    requests = numbered(sequence(5, *READINGS))
    (answers,) = await triton.infer(way, requests * 3, at_once=True)
    same_bits(answers, await steps(client, "ecg", READINGS) * 3)


async def test_many_ids_again_and_again(triton: Triton, client: Client, way: Way) -> None:
    """Twelve sequences of different lengths under three ids, their requests in turns."""
    sequences = [sequence(1 + n % 3, *(READINGS + OTHERS)[: 1 + n % 5]) for n in range(12)]
    lanes = [[request for each in sequences[id::3] for request in each] for id in range(3)]
    longest = max(map(len, lanes))
    requests = [lane[at] for at in range(longest) for lane in lanes if at < len(lane)]
    (answers,) = await triton.infer(way, requests, at_once=True)
    expected = {n: await steps(client, "ecg", (READINGS + OTHERS)[: 1 + n % 5]) for n in range(12)}
    for id in range(3):
        mine = [answer for answer, request in zip(answers, requests, strict=True) if request.sequence == id + 1]
        same_bits(mine, [outputs for n in range(id, 12, 3) for outputs in expected[n]])
