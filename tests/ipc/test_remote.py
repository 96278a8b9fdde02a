"""An engine as a worker's event loop sees it: at the other end of a socket, which may be slow, or gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest

from stepstream_server.engine.ports import Delivery, Detached, Get, Reply, RowErrors
from stepstream_server.errors import Reason, ServerFault, StepStreamError
from stepstream_server.ipc.codec import decode, encode
from stepstream_server.ipc.frames import Frames
from stepstream_server.ipc.remote import RemoteEngine
from support.engine import Answer, Ear
from support.station import Desk, Station, station, step

MANY = 5000  # envelopes, which fill a socket several times


class Hearer(Ear):
    """Who the engine speaks to."""

    def __init__(self) -> None:
        super().__init__()
        self.given_up: list[StepStreamError] = []
        self.news = asyncio.Event()

    def hear(self, delivery: Delivery) -> None:
        self.deliver(delivery)
        self.news.set()

    def give_up(self, error: StepStreamError) -> None:
        self.given_up.append(error)
        self.news.set()

    async def more(self) -> None:
        """Waits for the next of either."""
        self.news.clear()
        await self.news.wait()


@dataclass
class Worker:
    """An engine's ear and mouth on this event loop."""

    engine: RemoteEngine
    hearer: Hearer = field(default_factory=Hearer)


def worker_on(line: socket.socket) -> Worker:
    """A worker that listens at a socket."""
    hearer = Hearer()
    engine = RemoteEngine(line, hearer, asyncio.get_running_loop())
    engine.start()
    return Worker(engine, hearer)


@pytest.fixture
def running() -> Iterator[Station]:
    """An engine that turns."""
    with station() as running:
        yield running


@pytest.fixture
async def alone() -> AsyncIterator[tuple[Worker, Frames]]:
    """A worker, and the engine's end of its line in the test's hands."""
    ours, theirs = socket.socketpair()
    frames, worker = Frames(ours), worker_on(theirs)
    yield worker, frames
    frames.close()
    while not worker.hearer.given_up:
        await worker.hearer.more()


def delivery(number: int) -> Delivery:
    """One with a reply."""
    return Delivery([Reply(number, number)], None, RowErrors(), Detached(), number)


async def received(frames: Frames, count: int) -> list[tuple[Get, ...]]:
    """Reads so many envelopes from the engine's end, letting the loop run in between."""
    envelopes: list[tuple[Get, ...]] = []
    while len(envelopes) < count:
        await asyncio.sleep(0)
        envelopes += [tuple(decode(frame)) for frame in frames.receive()]
    return envelopes


async def test_two_workers_and_an_engine(running: Station) -> None:
    """Envelopes go in, deliveries come back, each to its own worker."""
    line = running.line()
    worker, desk = worker_on(running.line()), Desk(line)
    session = desk.open("a")
    worker.engine.submit(Get(1, "a"), Get(2, "nobody"))
    worker.engine.submit(Get(3, "a"))
    while len(worker.hearer.replies) < 3:
        await worker.hearer.more()
    assert [worker.hearer.replies[1].id, worker.hearer.replies[2].reason] == ["a", Reason.SESSION_NOT_FOUND]
    desk.submit(step(session, 0))
    assert desk.outcomes(1) == [Answer(1, 0, 0, 1, (1.0,))]
    running.thread.stop()
    while not worker.hearer.given_up:
        await worker.hearer.more()
    desk.close()


async def test_a_crash_ends_it_once(running: Station) -> None:
    """With the engine's own words; the line's end afterwards is no news, and nothing can be said any more."""
    worker, desk = worker_on(running.line()), Desk(running.line())
    session = desk.open()
    running.backend.broken = True
    desk.submit(step(session, 0))
    while not worker.hearer.given_up:
        await worker.hearer.more()
    running.thread.stop()
    running.exchange.close()
    for _ in range(10):
        await asyncio.sleep(0)
    assert [each.reason for each in worker.hearer.given_up] == [Reason.ENGINE_FAILED]
    with pytest.raises(ServerFault):
        worker.engine.submit(Get(1, "a"))
    desk.close()
    running.exchange = type(running.exchange)()  # for the fixture to close


async def test_what_came_before_the_error_is_heard(alone: tuple[Worker, Frames]) -> None:
    """In order, though all of it arrives at once; what follows is not."""
    worker, frames = alone
    for number in range(3):
        frames.send(encode(delivery(number)))
    frames.send(encode(ServerFault(Reason.ENGINE_FAILED, "over")))
    frames.send(encode(delivery(3)))
    while not worker.hearer.given_up:
        await worker.hearer.more()
    assert list(worker.hearer.replies) == [0, 1, 2]
    assert [str(each) for each in worker.hearer.given_up] == ["over"]


async def test_a_line_that_ends_is_an_engine_lost(alone: tuple[Worker, Frames]) -> None:
    """What was delivered before is heard, then the hearer is told, once."""
    worker, frames = alone
    frames.send(encode(delivery(7)))
    frames.close()
    while not worker.hearer.given_up:
        await worker.hearer.more()
    assert list(worker.hearer.replies) == [7]
    assert [each.reason for each in worker.hearer.given_up] == [Reason.ENGINE_LOST]
    with pytest.raises(ServerFault) as refused:
        worker.engine.submit(Get(1, "a"))
    assert refused.value.reason is Reason.ENGINE_LOST


async def test_an_engine_that_does_not_read_holds_nobody_up(alone: tuple[Worker, Frames]) -> None:
    """Submitting never waits; deliveries are heard meanwhile, and everything arrives later, in order."""
    worker, frames = alone
    for number in range(MANY):
        worker.engine.submit(Get(number, f"session-{number}"))
    frames.send(encode(delivery(1)))
    await worker.hearer.more()
    assert await received(frames, MANY) == [(Get(number, f"session-{number}"),) for number in range(MANY)]
    worker.engine.submit(Get(0, "late"), Get(1, "later"))
    assert await received(frames, 1) == [(Get(0, "late"), Get(1, "later"))]


async def test_an_engine_that_ends_without_having_read(alone: tuple[Worker, Frames]) -> None:
    """The hearer is told once, though much was still to be said; and what is said before it hears of that is harmless."""
    worker, frames = alone
    for number in range(MANY):
        worker.engine.submit(Get(number, f"session-{number}"))
    await asyncio.sleep(0)
    frames.close()
    worker.engine.submit(Get(0, "late"))
    while not worker.hearer.given_up:
        await worker.hearer.more()
    for _ in range(10):
        await asyncio.sleep(0)
    assert [each.reason for each in worker.hearer.given_up] == [Reason.ENGINE_LOST]


async def test_a_delivery_in_pieces(alone: tuple[Worker, Frames]) -> None:
    """A large one is heard once it is complete, however it is cut."""
    worker, frames = alone
    message = "x" * (1 << 22)
    frames.send(encode(Delivery([Reply(1, ServerFault(Reason.QUEUE_FULL, message))], None, RowErrors(), Detached(), 1)))
    assert frames.blocked
    while not worker.hearer.replies:
        frames.flush()
        await asyncio.sleep(0)
    assert worker.hearer.replies[1].message == message


async def test_a_command_that_cannot_be_said_harms_no_other(alone: tuple[Worker, Frames]) -> None:
    """Who asked it is told; the rest of the envelope arrives, and as one envelope, which is counted."""
    worker, frames = alone
    odd = Get(7, "\ud800")
    worker.engine.submit(Get(1, "a"), odd, Get(2, "b"))
    worker.engine.submit(odd)
    assert await received(frames, 2) == [(Get(1, "a"), Get(2, "b")), ()]
    while 7 not in worker.hearer.replies:
        await worker.hearer.more()
    assert worker.hearer.replies[7].reason is Reason.INVALID_ARGUMENT


async def test_a_delivery_that_cannot_be_heard_costs_no_other(
    alone: tuple[Worker, Frames], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those behind it in the same reading are heard."""
    worker, frames = alone
    hear = worker.hearer.hear

    def deaf_once(said: Delivery) -> None:
        hear(said)
        if said.heard == 1:
            raise KeyError("a fault of somebody's")

    monkeypatch.setattr(worker.hearer, "hear", deaf_once)
    for number in (1, 2):
        frames.send(encode(delivery(number)))
    while 2 not in worker.hearer.replies:
        await worker.hearer.more()
