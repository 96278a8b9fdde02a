"""The main process and its workers: those that cannot begin, that do not answer, that do not end."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing

from benchmarks.process import children
from stepstream_server.config import DoorSettings, LogSettings, split_address
from stepstream_server.ipc import Crew
from stepstream_server.ipc import crew as crew_module
from stepstream_server.ipc.channel import Channel
from stepstream_server.ipc.control import Begin, LogAt
from stepstream_server.spec import ModelSpec
from support import odd_worker
from support.backend import counter_spec
from support.process import state

PATIENCE = 30.0  # seconds: how long a test waits for what must come, before it fails

Hire = Callable[..., Crew]


@pytest.fixture
def counted() -> list[int]:
    """Places of workers that have counted."""
    return []


@pytest.fixture
async def hire(tmp_path: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hire]:
    """Makes crews of odd workers, whose behaviours are given in their order; nothing of them is left at the end."""
    monkeypatch.setattr(crew_module, "MODULE", odd_worker.__name__)
    monkeypatch.setattr(crew_module, "_FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(crew_module, "_LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("ODD_WORKERS", str(tmp_path))
    lines: list[socket.socket] = []
    crews: list[Crew] = []

    def make(size: int, *behaviours: str, spec: ModelSpec | None = None, heartbeat: float = 0.0) -> Crew:
        for number, behaviour in enumerate(behaviours):
            (tmp_path / f"{number}.{behaviour}").touch()
        specs = [spec or counter_spec()]
        door, logs, attach = DoorSettings(), LogSettings(), [lines.append]
        crews.append(Crew(size, specs, door, logs, "1.0", attach, lambda worker, counts: counted.append(worker), heartbeat))
        return crews[-1]

    yield make
    async with asyncio.timeout(PATIENCE):
        for crew in crews:
            await crew.stop()
            assert crew.alive == 0
    for line in lines:
        line.close()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what other processes do."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # nobody could set an event
            await asyncio.sleep(0)


async def test_one_that_cannot_begin_ends_all(hire: Hire) -> None:
    """The others, which could, are ended; the reason is told."""
    for behaviour, reason in (("dies", "a worker process ended before it listened, with 3"), ("refuses", "no such address")):
        crew = hire(3, behaviour)
        with pytest.raises(OSError, match=reason):
            await crew.start("127.0.0.1:0")
        assert crew.alive == 2
        await crew.stop()
        assert crew.alive == 0


async def test_one_that_neither_speaks_nor_ends_is_killed(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has closed its line is as good as dead, and is replaced."""
    monkeypatch.setattr(crew_module, "_END_SECONDS", 0.01)
    crew = hire(1, "deaf")
    with structlog.testing.capture_logs() as events:
        await crew.start("127.0.0.1:0")
        await until(lambda: len(events) == 2)
    assert [(each["event"], each.get("code")) for each in events] == [("worker_died", -9), ("worker_replaced", None)]
    assert (crew.alive, crew.deaths) == (1, 1)


async def test_replacements_are_tried_for_until_there_is_one(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot begin is no worker, and is told of. It is a death, unless it says why and ends when it is told to."""
    monkeypatch.setattr(crew_module, "_END_SECONDS", 0.01)
    crew = hire(1, "deaf", "dies", "refuses")
    with structlog.testing.capture_logs() as events:
        await crew.start("127.0.0.1:0")
        await until(lambda: len(events) == 4)
    assert [each["event"] for each in events] == ["worker_died", "worker_not_replaced", "worker_not_replaced", "worker_replaced"]
    assert (crew.alive, crew.deaths) == (1, 2)


async def beaten(crew: Crew, counted: list[int], answers: int) -> None:
    """A beat, and so many answers to it."""
    expected = len(counted) + answers
    crew.beat()
    await until(lambda: len(counted) >= expected)


async def test_one_that_leaves_five_beats_unanswered_is_replaced(
    hire: Hire, counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the sixth, and after two no scrape waits for it. The other one, which answers, is waited for and left alone."""
    monkeypatch.setattr(crew_module, "_COUNT_SECONDS", 3600.0)
    crew = hire(2, "hangs")
    with structlog.testing.capture_logs() as events:
        await crew.start("127.0.0.1:0")
        for _ in range(5):
            await beaten(crew, counted, 1)
            if len(counted) == 2:
                async with asyncio.timeout(PATIENCE):
                    await crew.count()
                assert counted == [counted[0]] * 3
        assert (crew.alive, crew.deaths, events) == (2, 0, [])
        await beaten(crew, counted, 1)
        await until(lambda: len(events) == 3)
        for _ in range(10):
            await beaten(crew, counted, 2)
    assert [each["event"] for each in events] == ["worker_hangs", "worker_died", "worker_replaced"]
    assert events[0]["pid"] == events[1]["pid"]
    assert len({each["worker"] for each in events}) == 1
    assert (crew.alive, crew.deaths) == (2, 1)


async def test_one_that_is_slow_is_late_but_not_hanging(hire: Hire, counted: list[int]) -> None:
    """All beats are forgiven as soon as it answers one."""
    crew = hire(1)
    await crew.start("127.0.0.1:0")
    for _ in range(4):
        for _ in range(4):
            crew.beat()
        await beaten(crew, counted, 5)
    assert (crew.alive, crew.deaths) == (1, 0)


async def test_a_drain_does_not_wait_for_one_that_hangs(hire: Hire, counted: list[int]) -> None:
    """It is killed and not replaced; what the other one has to say is heard."""
    crew = hire(2, "hangs")
    await crew.start("127.0.0.1:0")
    drain = asyncio.create_task(crew.drain(3600.0))
    for _ in range(6):
        await beaten(crew, counted, 1)
    async with asyncio.timeout(PATIENCE):
        assert not await drain  # the streams of the one that was killed have not ended so
    await until(lambda: crew.alive == 1)
    assert crew.deaths == 1


async def test_one_that_stops_before_it_listens(hire: Hire) -> None:
    """A worker that never listens is killed too, and counted."""
    crew = hire(1, "stops")
    starting = asyncio.create_task(crew.start("127.0.0.1:0"))
    await until(lambda: any(state(pid) == "T" for pid in children(os.getpid())))

    def beaten_to_its_end() -> bool:
        crew.beat()
        return starting.done()

    await until(beaten_to_its_end)
    with pytest.raises(OSError, match="a worker process ended before it listened, with -9"):
        await starting
    assert (crew.alive, crew.deaths) == (0, 1)


async def test_one_that_listens_is_heard_while_others_begin(hire: Hire, counted: list[int]) -> None:
    """A worker at work is heard however long others take to begin."""
    crew = hire(2, "silent")
    starting = asyncio.create_task(crew.start("127.0.0.1:0"))
    await until(lambda: crew.alive == 1)
    await beaten(crew, counted, 1)
    starting.cancel()
    await asyncio.wait([starting])


async def test_beats_come_by_themselves(hire: Hire) -> None:
    """Beats come at the pace that is set."""
    crew = hire(1, "hangs", heartbeat=0.01)
    with structlog.testing.capture_logs() as events:
        await crew.start("127.0.0.1:0")
        await until(lambda: len(events) >= 3)
    assert [each["event"] for each in events[:3]] == ["worker_hangs", "worker_died", "worker_replaced"]
    assert events[0]["seconds"] == pytest.approx(0.05)
    assert crew.deaths >= 1


async def test_a_stop_does_not_wait_for_a_replacement(hire: Hire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for one that never begins, nor for the pause before the next one."""
    monkeypatch.setattr(crew_module, "_END_SECONDS", 0.01)
    crew = hire(1, "deaf", "silent")
    await crew.start("127.0.0.1:0")
    await until(lambda: not list(tmp_path.iterdir()))  # the silent one is there
    monkeypatch.setattr(crew_module, "_END_SECONDS", PATIENCE)
    async with asyncio.timeout(PATIENCE):
        await crew.stop()
    paused = hire(1, "deaf")
    monkeypatch.setattr(crew_module, "_END_SECONDS", 0.01)
    monkeypatch.setattr(crew_module, "_LONGEST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(crew_module, "_FIRST_PAUSE_SECONDS", 3600.0)
    await paused.start("127.0.0.1:0")
    await until(lambda: paused.deaths == 1)
    async with asyncio.timeout(PATIENCE):
        await paused.stop()


async def test_whatever_an_author_has_noted_does_not_cross(hire: Hire) -> None:
    """A model's own fields may be what no message can hold."""
    deep: dict[str, object] = {}
    for _ in range(900):
        deep = {"": deep}
    crew = hire(1, spec=replace(counter_spec(), extra={"": 10**30, "deep": deep}))
    await crew.start("127.0.0.1:0")
    assert crew.alive == 1


async def test_the_port_stays_ours_while_nobody_listens(hire: Hire) -> None:
    """Another server is refused either port, though the only worker has just died."""
    crew = hire(1)
    listen, health = await crew.start("127.0.0.1:0", "127.0.0.1:0")
    with socket.socket() as worker:  # as gRPC does it
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(split_address(listen))
        worker.listen()
        with pytest.raises(OSError, match="^listen: cannot listen on 127.0.0.1:[0-9]+: .* in use$"):
            await hire(1).start(listen)
    with pytest.raises(OSError, match="^listen: cannot listen on 127.0.0.1:[0-9]+: .* in use$"):
        await hire(1).start(listen)
    with pytest.raises(OSError, match="^health: cannot listen on 127.0.0.1:[0-9]+: .* in use$"):
        await hire(1).start("127.0.0.1:0", health)
    await crew.stop()
    assert await hire(1).start(listen, health) == (listen, health)


async def test_one_that_began_before_the_level_of_the_log_changed_is_told(hire: Hire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that had begun heard of it then."""
    told: list[object] = []
    tell = Channel.tell

    def spy(channel: Channel, message: object) -> None:
        told.append(message)
        tell(channel, message)
        if isinstance(message, Begin):
            crew.log_level("debug")

    monkeypatch.setattr(Channel, "tell", spy)
    crew = hire(1)
    await crew.start("127.0.0.1:0")
    assert told[1:] == [LogAt("debug")]
