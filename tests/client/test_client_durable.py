"""Durable sessions: what was applied is told again to a server that was restored, and nobody notices but by the delay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from stepstream import (
    Client,
    ClientOptions,
    InvalidArgument,
    ModelFailed,
    NotBitwise,
    Session,
    SessionCapacity,
    SessionLost,
    StoreUnavailable,
    sync,
)
from stepstream_proto.v1 import common_pb2
from support.background import in_background
from support.servicer import QUICK, FakeServicer, error, serving

UNAVAILABLE, EXHAUSTED = 14, 8


@pytest.fixture
async def servicer() -> FakeServicer:
    """Its windows are 8 steps; 12 inputs are worth keeping."""
    return FakeServicer(replay_steps=12)


@pytest.fixture
def options() -> ClientOptions:
    """Of a client that loses no time."""
    return QUICK


@pytest.fixture
async def session(client: Client) -> AsyncIterator[Session]:
    """A durable session, `a`, that adds up numbers."""
    async with client.open_session("level", id="a", durable=True) as opened:
        yield opened


async def totals(session: Session, *values: float) -> list[float]:
    """Running sums, of steps that are sent ahead."""
    answers = await asyncio.gather(*(session.step(value) for value in values))
    return [float(each["total"][0]) for each in answers]


async def heard(condition: Callable[[], bool]) -> None:
    """Lets the client run until the condition holds."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


def told(servicer: FakeServicer) -> list[tuple[int, list[float], int]]:
    """The blocks so far: first number, inputs and which outputs, each of one session."""
    found = []
    for block in servicer.seen("block"):
        (first, *_) = np.frombuffer(block.first_seqs, "<u8").tolist()
        found.append((first, np.frombuffer(block.inputs[0], "<f4").tolist(), block.outputs))
    return found


async def test_what_was_answered_is_told_again_without_outputs(session: Session, servicer: FakeServicer) -> None:
    """From where the server was restored, resets included; then it goes on, and callers hear each answer once."""
    assert await totals(session, 1, 2, 3) == [1, 3, 6]
    await session.reset()
    assert await totals(session, 4) == [4]
    before = len(servicer.received)
    servicer.crash(a=1)
    assert await totals(session, 5) == [9]
    again = [each for each in servicer.received[before:] if each.WhichOneof("message") in ("block", "reset")]
    assert [each.WhichOneof("message") for each in again] == ["block", "reset", "block", "block"]
    assert told(servicer)[-3:] == [
        (1, [2, 3], common_pb2.OUTPUTS_NONE),
        (4, [4], common_pb2.OUTPUTS_NONE),
        (5, [5], common_pb2.OUTPUTS_ALL),
    ]
    assert all(not each.block.HasField("timeout") for each in again)
    assert (session.epoch, session.next_seq, session.durable_seq) == (1, 6, 1)
    (attach,) = servicer.seen("attach")
    assert (attach.sessions[0].acked, attach.sessions[0].replay_from) == (5, 0)


async def test_steps_in_flight_and_steps_that_wait_follow(session: Session, servicer: FakeServicer) -> None:
    """Behind what is told again, whether the server had applied them before it died or not."""
    assert await totals(session, 1, 1) == [1, 2]
    servicer.losing = True
    steps = [asyncio.ensure_future(session.step(1)) for _ in range(3)]
    await servicer.until(lambda: servicer.sessions["a"].next_seq == 5)
    servicer.paused = True
    steps += [asyncio.ensure_future(session.step(1)) for _ in range(5)]
    await asyncio.sleep(0)
    servicer.losing = False
    servicer.crash(a=0)
    servicer.release()
    assert [float((await step)["total"][0]) for step in steps] == list(range(3, 11))


async def test_a_chunk_that_was_answered_in_part_goes_on(session: Session, servicer: FakeServicer) -> None:
    """Its first steps are told again without outputs, which its caller has, and the others with theirs."""
    servicer.pieces = 1
    servicer.paused = True
    chunk = asyncio.ensure_future(session.chunk(np.arange(1, 9)))
    await servicer.until(lambda: len(servicer.seen("block")) == 1)
    held, servicer._jobs = servicer._jobs[0], []
    outcomes = [servicer._apply(held, index) for index in range(6)]
    servicer._say_answers(held.stream, [(held.session.handle, 0, outcomes)])
    await heard(lambda: session.acked == 6)
    servicer.crash(a=2)
    servicer.release()
    assert (await chunk)["total"][:, 0].tolist() == np.cumsum(np.arange(1, 9)).tolist()
    assert told(servicer)[-2:] == [
        (2, [3, 4, 5, 6], common_pb2.OUTPUTS_NONE),
        (6, [7, 8], common_pb2.OUTPUTS_ALL),
    ]


async def test_what_is_durable_is_let_go_of(session: Session, servicer: FakeServicer) -> None:
    """The server tells; a crash may restore it from there on and never before."""
    await totals(session, 1, 2, 3, 4)
    servicer.write("a", 3)
    await heard(lambda: session.durable_seq == 3)
    servicer.crash(a=3)
    assert await totals(session, 5) == [15]
    assert servicer.seen("attach")[0].sessions[0].replay_from == 3
    assert told(servicer)[-2][:2] == (3, [4])


async def test_a_server_restored_from_before_what_is_kept_has_lost_the_session(session: Session, servicer: FakeServicer) -> None:
    """It is told at once, with the first step that is lost, to whoever waits; others that are not durable as ever."""
    await totals(session, 1, 2, 3, 4)
    servicer.write("a", 3)
    await heard(lambda: session.durable_seq == 3)
    servicer.crash(a=1)
    with pytest.raises(SessionLost) as lost:
        await session.step(5)
    assert lost.value.since == 1
    assert len(servicer.seen("attach")) == 1


async def test_steps_wait_for_a_store_that_does_not_keep_up(session: Session, servicer: FakeServicer) -> None:
    """No more inputs are kept than the server says are worth it, in flight ones included."""
    steps = [asyncio.ensure_future(session.step(1)) for _ in range(20)]
    await steps[11]
    servicer.write("a", 5)
    await steps[16]
    assert (servicer.sessions["a"].next_seq, steps[17].done()) == (17, False)
    servicer.crash(a=5)
    await servicer.until(lambda: servicer.sessions["a"].next_seq == 17)
    servicer.write("a")
    assert [float((await step)["total"][0]) for step in steps] == list(range(1, 21))


async def test_a_row_longer_than_what_may_be_kept_goes_alone(address: str, servicer: FakeServicer) -> None:
    """Once all before it is durable: it would wait for ever otherwise."""
    async with Client(address, ClientOptions(replay_bytes=8)) as client:
        session = await client.open_session("level", id="a", durable=True)
        chunk = asyncio.ensure_future(session.chunk([1, 2, 3, 4, 5]))
        assert (await chunk)["total"][-1, 0] == 15
        step = asyncio.ensure_future(session.step(1))
        for _ in range(20):
            await asyncio.sleep(0)
        assert servicer.sessions["a"].next_seq == 5
        servicer.write("a")
        assert (await step)["total"][0] == 16


async def test_a_session_that_serves_on_is_at_risk_and_says_so_once(client: Client, servicer: FakeServicer) -> None:
    """Its oldest inputs are let go of; a server restored from before the rest has lost it."""
    events = client.events()
    session = await client.open_session("level", id="a", durable=True, on_lag="serve")
    assert (await totals(session, *[1] * 30))[-1] == 30
    servicer.crash(a=18)
    assert await totals(session, 1) == [31]
    servicer.crash(a=18)
    with pytest.raises(SessionLost) as lost:
        await session.step(1)
    assert lost.value.since == 18
    await client.close()
    kinds = [event.kind async for event in events]
    assert kinds[:2] == ["connected", "at risk"]
    assert kinds.count("at risk") <= kinds.count("connected")


async def test_a_server_that_makes_sessions_durable_by_itself(client: Client, servicer: FakeServicer) -> None:
    """They are treated alike, attached ones too, which go on behind what was applied without any of its inputs."""
    servicer.always_durable = True
    async with client.open_session("level", id="a") as session:
        await totals(session, 1, 2)
        servicer.crash(a=0)
        assert (session.durable, await totals(session, 3)) == (True, [6])
    opened = await client.open_session("level", id="b")
    await totals(opened, 1, 2)
    async with client.attach_session("level", "b", opened.secret) as again:
        assert await totals(again, 3) == [6]
        servicer.crash(b=1)
        with pytest.raises(SessionLost):
            await again.step(1)


@pytest.mark.parametrize("reason", ["SESSION_CAPACITY", "QUEUE_FULL", "STORE_UNAVAILABLE", "MODEL_NOT_READY"])
async def test_a_server_without_room_is_asked_again(session: Session, servicer: FakeServicer, reason: str) -> None:
    """While it attaches a session, and while it is told again what was applied."""
    code = UNAVAILABLE if reason in ("STORE_UNAVAILABLE", "MODEL_NOT_READY") else EXHAUSTED
    await totals(session, 1, 2, 3)
    servicer.attach_refusals = [error(code, reason, retry_delay_ms=1)] * 3
    servicer.failures["a", 1] = error(code, reason, retry_delay_ms=1)
    servicer.crash(a=0)
    assert await totals(session, 4) == [10]
    assert (servicer.attach_refusals, servicer.failures) == ([], {})


async def test_others_go_on_while_one_finds_no_room(client: Client, servicer: FakeServicer) -> None:
    """On the same stream."""
    async with client.open_sessions("level", 2, ids=["a", "b"], durable=True) as group:
        await group.step([1, 2])
        servicer.attach_refusals = [error(EXHAUSTED, "SESSION_CAPACITY", retry_delay_ms=60_000)]
        servicer.crash(a=0, b=0)
        assert await totals(group[1], 1) == [3]
        assert len(servicer.seen("attach")) == 1
        servicer.cut_streams()
        assert await totals(group[0], 1) == [2]


async def test_room_is_not_waited_for_for_ever(address: str, servicer: FakeServicer) -> None:
    """When patience is over, the refusal is the outcome."""
    async with Client(address, ClientOptions(reconnect_seconds=0.05, reconnect_first_seconds=0.001)) as client:
        session = await client.open_session("level", id="a", durable=True)
        servicer.attach_refusals = [error(EXHAUSTED, "SESSION_CAPACITY")] * 10_000
        servicer.crash(a=0)
        with pytest.raises(SessionCapacity):
            await session.step(1)


async def test_a_second_crash_while_it_is_told_again(session: Session, servicer: FakeServicer) -> None:
    """Wherever that restores the session."""
    await totals(session, 1, 2, 3, 4, 5, 6)
    for first, second in ((0, 0), (1, 3), (4, 6)):
        servicer.paused = True
        blocks = len(told(servicer))
        servicer.crash(a=first)
        await servicer.until(lambda blocks=blocks: len(told(servicer)) > blocks)  # type: ignore[misc]
        servicer.crash(a=min(second, servicer.sessions["a"].next_seq))
        servicer.release()
        assert await totals(session, 0) == [21]


async def test_what_cannot_be_repeated_ends_the_session(session: Session, servicer: FakeServicer) -> None:
    """A step that was applied once and fails now: the session is lost from there on."""
    await totals(session, 1, 2, 3)
    servicer.failures["a", 1] = error(9, "MODEL_FAILED")
    servicer.crash(a=0)
    with pytest.raises(SessionLost) as lost:
        await session.step(1)
    assert lost.value.since == 1
    assert isinstance(lost.value.__cause__, ModelFailed) or "MODEL_FAILED" in str(lost.value)


async def test_long_histories_are_told_again_within_the_window(client: Client, servicer: FakeServicer) -> None:
    """They are acknowledged as they go: the fake server counts what exceeds its window."""
    servicer.window.replay_steps = 100
    session = await client.open_session("level", id="a", durable=True)
    await session.chunk(np.ones(40))
    servicer.crash(a=3)
    assert await totals(session, 1) == [41]


async def test_a_copy_waits_until_the_session_stands_again(session: Session, servicer: FakeServicer) -> None:
    """It is made of what was applied, not of what a restored server has."""
    await totals(session, 1, 2, 3)
    servicer.paused = True
    servicer.crash(a=0)
    await servicer.until(lambda: len(servicer.seen("attach")) == 1)
    fork = asyncio.ensure_future(session.fork())
    servicer.release()
    assert (await fork).next_seq == 3


async def test_a_server_that_comes_back_is_waited_for(client: Client, servicer: FakeServicer) -> None:
    """A stream is not held for durable sessions that will be found again, only for those that have to be moved."""
    durable = await client.open_session("level", id="a", durable=True)
    draining = asyncio.ensure_future(client.draining.wait())
    await totals(durable, 1)
    servicer.announce_drain(resume=True)
    await draining
    assert await totals(durable, 1) == [2]
    assert len(servicer.seen("attach")) == 1


async def test_bits_are_insisted_on(client: Client, servicer: FakeServicer) -> None:
    """The session object ends; the session is let go of, and open."""
    careless = await client.open_session("level", id="b", durable=True)
    session = await client.open_session("level", id="a", durable=True, require_bitwise=True)
    await totals(session, 1)
    assert session.bitwise is True
    for each in servicer.sessions.values():
        each.bitwise = False
    servicer.crash(a=0, b=0)
    with pytest.raises(NotBitwise):
        await session.step(1)
    assert (await totals(careless, 1), careless.bitwise) == ([1], False)
    await servicer.until(lambda: servicer.sessions["a"].stream is None)


async def test_a_session_that_moves_stays_durable(client: Client, session: Session, servicer: FakeServicer) -> None:
    """At the other server, which has it in its store before it is used there."""
    successor = FakeServicer(replay_steps=12)
    async with serving(successor) as address, Client(address, QUICK) as other:
        await totals(session, 1, 2)
        await client.move([session], to=other)
        assert (session.durable, session.durable_seq) == (True, 2)
        await totals(session, 3)
        successor.crash(a=2)
        assert await totals(session, 4) == [10]
        await session.close()


async def test_an_import_can_be_durable(client: Client, session: Session, servicer: FakeServicer) -> None:
    """Like an opening."""
    await totals(session, 1, 2)
    async with client.import_session(await session.export(), id="b", durable=True) as copy:
        await totals(copy, 3)
        servicer.crash(a=2, b=2)
        assert await totals(copy, 4) == [10]


async def test_a_store_that_is_away_puts_openings_off(client: Client, servicer: FakeServicer) -> None:
    """Its refusal has a class and a reason."""
    servicer.attach_refusals = [error(UNAVAILABLE, "STORE_UNAVAILABLE", retry_delay_ms=1)]
    opened = await client.open_session("level", durable=True)
    async with client.attach_session("level", opened.id, opened.secret) as again:
        assert await totals(again, 1) == [1]
    assert StoreUnavailable.default_code.value[0] == UNAVAILABLE


async def test_words_are_checked(client: Client) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidArgument, match="on_lag: expected 'wait' or 'serve', got 'die'"):
        client.open_session("level", durable=True, on_lag="die")  # type: ignore[arg-type]


def test_blocking_sessions_are_durable_too() -> None:
    """By the same arguments."""
    servicer = FakeServicer()
    with (
        in_background(serving(servicer)) as server,
        sync.Client(server.value, QUICK) as client,
        client.open_session("level", id="a", durable=True) as session,
    ):
        session.step(1)
        server.call(lambda: servicer.crash(a=0))
        assert (session.step(2)["total"][0], session.epoch, session.durable, session.durable_seq) == (3, 1, True, 0)
