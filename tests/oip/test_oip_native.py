"""Native and OIP callers meet: one table of sessions, which either side sees, steps, copies, moves and ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stepstream import Client
from stepstream_server.app import Bound
from support.command import stepstream
from support.oip.native import same_bits, steps
from support.oip.scrape import sample
from support.oip.triton import Answer, Triton, Way, sequence

READINGS = [-1.20, -1.24, -1.29, 0.40, -1.34]
REQUESTS = [replace(request, end=False) for request in sequence(5, *READINGS)]
ID = "int:5"


def reason(answer: Answer) -> str:
    """Why it was refused."""
    return answer.error.partition(":")[0]


async def test_sequences_are_listed(triton: Triton, bound: Bound) -> None:
    """`stepstream sessions` shows them like any other session, with the steps applied; nobody holds them."""
    await triton.infer("aio_stream", REQUESTS, [REQUESTS[0], *sequence("bed-7", *READINGS)[:2]])
    listed = await stepstream(bound.listen, "sessions", "--model", "ecg", "--json")
    assert {each["id"]: (each["next_seq"], each["attached"], each["quarantined"]) for each in listed.document} == {
        ID: (5, False, False),
        "bed-7": (2, False, False),
    }


async def test_native_steps_between(triton: Triton, client: Client) -> None:
    """Both sides' steps count alike, and are to the bit what one side's would be."""
    (first,) = (await triton.infer("sync", REQUESTS[:1]))[0]
    second = await client.step("ecg", ID, [READINGS[1]])
    third = await triton.one(REQUESTS[2])
    fourth = await client.step("ecg", ID, [READINGS[3]], seq=3)
    fifth = await triton.one(replace(REQUESTS[4], seq=4))
    expected = await steps(client, "ecg", READINGS)
    same_bits([first, third, fifth], expected[::2])
    for outputs, natively in ((second, expected[1]), (fourth, expected[3])):
        np.testing.assert_array_equal(outputs["next"], natively["next"])
    assert third.seq == 2


async def test_a_sequence_is_forked(triton: Triton, client: Client) -> None:
    """The fork is a native session that goes on from there; the sequence does not notice."""
    await triton.infer("sync", REQUESTS[:3])
    expected = await steps(client, "ecg", READINGS)
    async with await client.fork_session("ecg", ID) as fork:
        assert fork.next_seq == 3
        np.testing.assert_array_equal((await fork.step([READINGS[3]]))["next"], expected[3]["next"])
        same_bits([await triton.one(request) for request in REQUESTS[3:]], expected[3:])


async def test_a_sequence_is_copied_and_goes_on_elsewhere(triton: Triton, client: Client) -> None:
    """Exported and closed it has moved; imported it is there again, and its client goes on when nobody holds it any more."""
    await triton.infer("sync", REQUESTS[:2])
    snapshot = await client.export_session("ecg", ID, close=True)
    assert reason(await triton.one(REQUESTS[2])) == "SESSION_MOVED"
    session = await client.import_session(snapshot)
    assert (session.id, session.next_seq, session.bitwise) == (ID, 2, True)
    assert reason(await triton.one(REQUESTS[2])) == "SESSION_IN_USE"
    third = await session.step([READINGS[2]])
    await session.detach()
    expected = await steps(client, "ecg", READINGS)
    np.testing.assert_array_equal(third["next"], expected[2]["next"])
    same_bits([await triton.one(request) for request in REQUESTS[3:]], expected[3:])


async def test_a_sequence_closed_natively(triton: Triton, client: Client) -> None:
    """Its client hears that it was closed."""
    await triton.infer("sync", REQUESTS[:2])
    assert await client.close_session("ecg", ID) == 2
    assert reason(await triton.one(REQUESTS[2])) == "SESSION_CLOSED"


@pytest.mark.parametrize(("id", "named"), [(ID, 5), ("bed-7", "bed-7")])
async def test_a_native_session_that_nobody_holds_is_a_sequence(
    triton: Triton, client: Client, id: str, named: int | str
) -> None:
    """Opened natively and let go, it takes requests without a start; an end closes it."""
    session = await client.open_session("ecg", id=id)
    first = await session.step([READINGS[0]])
    await session.detach()
    rest = [
        replace(request, sequence=named, start=False, end=not left) for left, request in zip("111", REQUESTS[1:4], strict=True)
    ]
    rest[-1] = replace(rest[-1], end=True)
    (answers,) = await triton.infer("sync_stream", rest)
    expected = await steps(client, "ecg", READINGS[:4])
    np.testing.assert_array_equal(first["next"], expected[0]["next"])
    same_bits(answers, expected[1:])
    assert [each.id async for each in client.list_sessions("ecg")] == []


@pytest.mark.parametrize("way", ["sync", "sync_stream"])
async def test_a_held_session_is_its_holders(triton: Triton, client: Client, way: Way) -> None:
    """Neither stepped nor replaced nor ended from outside; its holder does not notice."""
    async with client.open_session("ecg", id=ID) as session:
        first = await session.step([READINGS[0]])
        (answers,) = await triton.infer(way, [REQUESTS[1], REQUESTS[0], replace(REQUESTS[1], end=True)])
        assert [reason(answer) for answer in answers] == ["SESSION_IN_USE"] * 3
        assert {answer.status for answer in answers} == {None if way == "sync_stream" else "FAILED_PRECONDITION"}
        second = await session.step([READINGS[1]])
    expected = await steps(client, "ecg", READINGS[:2])
    np.testing.assert_array_equal([first["next"], second["next"]], [each["next"] for each in expected])


@pytest.mark.own_server
async def test_what_was_replaced_is_counted(triton: Triton, bound: Bound) -> None:
    """A start on a live id ends the old session for a reason of its own."""
    await triton.infer("sync", [REQUESTS[0], REQUESTS[1], REQUESTS[0]])
    told = {"model": "ecg", "version": "1"}
    assert await sample(f"http://{bound.metrics}/metrics", "stepstream_sessions_closed_total", **told, reason="REPLACED") == 1
    assert await sample(f"http://{bound.metrics}/metrics", "stepstream_sessions_opened_total", **told, origin="OPENED") == 2
    assert await sample(f"http://{bound.metrics}/metrics", "stepstream_sessions_open", **told) == 1
