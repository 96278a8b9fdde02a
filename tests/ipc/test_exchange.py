"""An engine with its front doors behind sockets: what is said both ways, and what becomes of workers that fail it."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from stepstream_server.engine.ports import Ending, Get
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.ipc import exchange as exchange_module
from stepstream_server.ipc.exchange import Exchange
from support.engine import Answer
from support.station import PATIENCE, Desk, Station, station, step

MANY = 5000  # questions, whose replies fill a socket several times


@pytest.fixture
def running() -> Iterator[Station]:
    """An engine that turns."""
    with station() as running:
        yield running


@pytest.fixture
def hire(running: Station) -> Iterator[Callable[[], Desk]]:
    """Makes workers, which are gone at the end."""
    desks: list[Desk] = []

    def hire() -> Desk:
        desks.append(Desk(running.line()))
        return desks[-1]

    yield hire
    for desk in desks:
        desk.close()


def test_parcels_and_deliveries(hire: Callable[[], Desk]) -> None:
    """A session is opened, stepped and asked about; every envelope is counted as heard."""
    desk = hire()
    session = desk.open("a")
    desk.submit(step(session, 0, 2.0), step(session, 1, 3.0))
    assert desk.outcomes(2) == [Answer(1, 0, 0, 1, (2.0,)), Answer(1, 0, 1, 1, (5.0,))]
    assert desk.get("a").next_seq == 2
    assert desk.get("nobody").reason is Reason.SESSION_NOT_FOUND
    assert desk.heard == 4


def test_each_worker_hears_what_concerns_it(hire: Callable[[], Desk]) -> None:
    """They number their streams and questions as they like; a session moves from one to another."""
    desks = [hire() for _ in range(5)]
    sessions = [desk.open(f"s{number}") for number, desk in enumerate(desks)]
    for number, (desk, session) in enumerate(zip(desks, sessions, strict=True)):
        desk.submit(step(session, 0, float(number)))
    for number, desk in enumerate(desks):
        assert desk.outcomes(1) == [Answer(1, 0, 0, 1, (float(number),))]
    moved = desks[0].attach(sessions[4], handle=1)
    desks[0].submit(step(moved, 1, 10.0, handle=1))
    assert desks[0].outcomes(3)[1:] == [Answer(1, 1, 0, 1, (4.0,)), Answer(1, 1, 1, 1, (14.0,))]
    desks[4].receive()
    assert desks[4].ear.detached == [(1, 0, Ending.TAKEN)]


def test_workers_come_while_the_engine_sleeps_and_while_it_computes(running: Station, hire: Callable[[], Desk]) -> None:
    """Each is heard, whenever it was attached."""
    first = hire()
    session = first.open()
    for number in range(50):
        assert hire().get("nobody").reason is Reason.SESSION_NOT_FOUND, number
    running.hold(first, session, 0)
    late = hire()
    late.submit(Get(late.request(), session.id))
    running.gate.open()
    late.receive()
    assert late.ear.replies[1].id == session.id


def test_a_worker_that_vanishes_lets_its_streams_go(running: Station, hire: Callable[[], Desk]) -> None:
    """What it said before is done, what it has queued is dropped, its sessions are free, and the others go on."""
    honest = hire()
    own = honest.open("own")
    desk = hire()
    session = desk.open("theirs")
    running.hold(honest, own, 0)
    desk.submit(*[step(session, seq) for seq in range(5)])
    desk.close()
    running.gate.open()
    assert honest.outcomes(1) == [Answer(1, 0, 0, 1, (1.0,))]
    while honest.get("theirs").attached:
        pass
    info = honest.get("theirs")
    assert info.pending_steps == 0
    assert running.engine.stats().streams == 1
    again = honest.attach(session, handle=1, acked=info.next_seq)
    honest.submit(step(own, 1), step(again, info.next_seq, 0.5, handle=1))
    assert honest.outcomes(3)[1:] == [Answer(1, 0, 1, 1, (2.0,)), Answer(1, 1, info.next_seq, 1, (info.next_seq + 0.5,))]


def test_last_words_are_heard(hire: Callable[[], Desk]) -> None:
    """What a worker said just before it died counts."""
    honest = hire()
    for number in range(20):
        desk = hire()
        session = desk.open(f"s{number}")
        desk.submit(step(session, 0, 7.0))
        desk.flush()
        desk.close()
        while honest.get(session.id).attached:
            pass
        assert honest.get(session.id).pending_steps == 0


def test_a_worker_that_does_not_read_holds_up_nobody(running: Station, hire: Callable[[], Desk]) -> None:
    """The engine goes on with the others; when the worker reads, all is there in order."""
    lazy, honest = hire(), hire()
    own = honest.open()
    lazy.submit(*[Get(lazy.request(), f"nobody-{number}") for number in range(10)])
    for number in range(MANY):
        lazy.submit(Get(lazy.request(), f"nobody-{number}"))
    lazy.flush()
    for seq in range(100):
        honest.submit(step(own, seq))
        assert honest.outcomes(seq + 1)[-1] == Answer(1, 0, seq, 1, (seq + 1.0,))
    while len(lazy.ear.replies) < MANY + 10:
        lazy.receive()
    assert list(lazy.ear.replies) == list(range(1, MANY + 11))
    assert lazy.heard == MANY + 1
    assert lazy.get("nobody").reason is Reason.SESSION_NOT_FOUND


def test_a_worker_that_dies_without_having_read(running: Station, hire: Callable[[], Desk]) -> None:
    """What waits for it is dropped, and its streams are let go."""
    honest = hire()
    for number in range(3):
        lazy = hire()
        session = lazy.open(f"s{number}")
        for _ in range(MANY):
            lazy.submit(Get(lazy.request(), session.id))
        lazy.flush()
        lazy.close()
        while honest.get(session.id).attached:
            pass
    assert running.engine.stats().streams == 0
    assert not running.crashes.qsize()


def test_a_crash_is_told_to_every_worker_once(running: Station, hire: Callable[[], Desk]) -> None:
    """Behind all that was said before; nothing follows."""
    desks = [hire() for _ in range(3)]
    sessions = [desk.open() for desk in desks]
    running.backend.broken = True
    desks[0].submit(step(sessions[0], 0))
    for desk in desks:
        error = desk.receive()
        assert isinstance(error, StepStreamError)
        assert error.reason is Reason.ENGINE_FAILED
        assert "bus" not in error.message
    assert str(running.crashes.get(timeout=PATIENCE)) == "the device fell off the bus"
    running.thread.stop()
    running.exchange.close()
    for desk in desks:
        with pytest.raises(EOFError):
            desk.receive()
    running.exchange = Exchange()  # for the fixture to close


def test_a_crash_is_told_to_a_worker_that_was_behind(running: Station, hire: Callable[[], Desk]) -> None:
    """It has a moment to take in what waits for it, with the error at its end."""
    lazy, other = hire(), hire()
    session = other.open()
    for number in range(MANY):
        lazy.submit(Get(lazy.request(), f"nobody-{number}"))
    lazy.flush()
    assert other.get("nobody").reason is Reason.SESSION_NOT_FOUND  # by now the replies wait
    running.backend.broken = True
    other.submit(step(session, 0))
    while lazy.ear.failure is None:
        lazy.receive()
    assert lazy.ear.failure.reason is Reason.ENGINE_FAILED
    assert len(lazy.ear.replies) == MANY


def test_a_crash_is_not_held_up_by_who_never_reads(
    running: Station, hire: Callable[[], Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server ends all the same."""
    monkeypatch.setattr(exchange_module, "_LAST_WORD_SECONDS", 0.01)
    lazy, other = hire(), hire()
    session = other.open()
    for number in range(MANY):
        lazy.submit(Get(lazy.request(), f"nobody-{number}"))
    lazy.flush()
    running.backend.broken = True
    other.submit(step(session, 0))
    assert str(running.crashes.get(timeout=PATIENCE)) == "the device fell off the bus"
    assert other.receive().reason is Reason.ENGINE_FAILED


def test_a_stopped_engine_tells_its_workers(running: Station, hire: Callable[[], Desk]) -> None:
    """A sleeping engine wakes to be stopped; those who come later find nobody, and it is no crash."""
    desk = hire()
    desk.open()
    running.thread.stop()
    assert desk.receive().reason is Reason.ENGINE_FAILED
    assert not running.crashes.qsize()


def test_closing_lets_go_of_workers_that_were_never_heard() -> None:
    """Neither a worker that had joined nor one that was about to waits for ever."""
    exchange = Exchange()
    ours, theirs = socket.socketpair()
    exchange.attach(ours)
    exchange.close()
    with theirs:
        theirs.settimeout(PATIENCE)
        assert theirs.recv(1) == b""


def test_parcels_from_many_threads_wake_a_sleeper() -> None:
    """Whoever puts one in, whenever: it is found."""
    exchange = Exchange()

    def put(door: int) -> None:
        for _ in range(500):
            exchange.put((door, []))

    threads = [threading.Thread(target=put, args=(door,)) for door in range(4)]
    for thread in threads:
        thread.start()
    found = [exchange.get(timeout=PATIENCE) for _ in range(2000)]
    for thread in threads:
        thread.join()
    assert sorted(each[0] for each in found if each is not None) == sorted([*range(4)] * 500)
    exchange.put(None)
    assert exchange.get(timeout=PATIENCE) is None
    with pytest.raises(queue.Empty):
        exchange.get(timeout=0.0)
    with pytest.raises(queue.Empty):
        exchange.get_nowait()
    exchange.close()
