"""The blocking client: what the asynchronous one does, without a loop of the caller's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import assert_type

import numpy as np
import pytest

import stepstream
from stepstream import (
    ConnectionLost,
    GroupError,
    InvalidInput,
    NonFiniteState,
    Outputs,
    SessionClosed,
    SessionExists,
    SessionInfo,
    sync,
)
from stepstream.sync._thread import AHEAD
from support.background import Background, in_background
from support.servicer import FakeServicer, error, serving


@pytest.fixture
def servicer() -> FakeServicer:
    """The server's side; its windows are 8 steps."""
    return FakeServicer()


@pytest.fixture
def server(servicer: FakeServicer) -> Iterator[Background[str]]:
    """It runs on a thread of its own; `value` is its address."""
    with in_background(serving(servicer)) as background:
        yield background
    assert servicer.broken_rules == []


@pytest.fixture
def client(server: Background[str]) -> Iterator[sync.Client]:
    """A blocking client with default options."""
    with sync.Client(server.value) as connected:
        yield connected


def test_a_session_is_stepped_by_plain_calls(client: sync.Client, servicer: FakeServicer) -> None:
    """Steps, chunks and resets return what the asynchronous ones do, and leaving the context closes the session."""
    with client.open_session("level", id="a") as session:
        assert session.step(1.0)["total"].tolist() == [1, -1]
        assert session.chunk([1.0, 2.0], "last")["total"].tolist() == [[4, -4]]
        session.reset()
        assert session.chunk([1.0, 2.0])["count"].tolist() == [[1], [2]]
        assert (session.id, session.next_seq, session.acked, session.secret) == ("a", 6, 6, b"secret of a")
        assert (session.model.name, session.bitwise) == ("level", None)
        with pytest.raises(InvalidInput):
            session.step([1.0, 2.0])
    assert not servicer.sessions
    with pytest.raises(SessionClosed):
        session.step(1.0)


def test_a_group_is_stepped_by_plain_calls(client: sync.Client, server: Background[str], servicer: FakeServicer) -> None:
    """Its members are sessions like any other, and its errors are those of the asynchronous group."""
    with client.open_sessions("level", 3, ids=["a", "b", "c"]) as group:
        assert group.step([1.0, 2.0, 3.0])["total"][:, 0].tolist() == [1, 2, 3]
        assert group.chunk(np.ones((3, 2)), "none")["total"].shape == (3, 0, 2)
        assert [each.id for each in group] == ["a", "b", "c"]
        assert group[1].step(1.0)["total"][0] == 5
        servicer.failures["b", 4] = error(9, "NON_FINITE_STATE")
        with pytest.raises(GroupError) as failed:
            group.step([1.0, 1.0, 1.0])
        assert list(failed.value.errors) == [1]
        group.reset()
        group.detach()
    assert sorted(servicer.sessions) == ["a", "b", "c"]


def test_sessions_are_copied_moved_and_listed_by_plain_calls(client: sync.Client, servicer: FakeServicer) -> None:
    """Each call about sessions has its twin."""
    session = client.open_session("level", id="a")
    session.step(1.0)
    with session.fork(ids=["b"]) as fork, session.fork(2, ids=["c", "d"]) as forks:
        assert fork.step(1.0)["total"][0] == 2
        assert forks.step([2.0, 3.0])["total"][:, 0].tolist() == [3, 4]
        assert [each.id for each in client.list_sessions("level", page_size=3)] == ["a", "b", "c", "d"]
    snapshot = session.export()
    with pytest.raises(SessionExists):
        client.import_session(snapshot)
    session.detach()
    assert client.step("level", "a", 1.0, seq=1)["total"][0] == 2
    assert client.get_session("level", "a").next_seq == 2
    with client.fork_session("level", "a") as fork, client.fork_session("level", "a", 2) as forks:
        assert (fork.next_seq, len(forks)) == (2, 2)
    with client.attach_session("level", "a", b"secret of a") as again:
        assert again.next_seq == 2
    with client.import_session(snapshot) as moved:
        assert (moved.next_seq, moved.bitwise) == (1, True)
        moved.detach()
    assert client.export_session("level", "a", close=True)
    assert client.close_session("level", client.open_session("level", id="e").id, secret=b"secret of e") == 0
    assert [each.name for each in client.models()] == ["pairs", "level", "mixed"]
    assert (client.model("level").version, bool(client.draining)) == (1, False)


def test_readings_that_are_there_are_sent_ahead(client: sync.Client, server: Background[str], servicer: FakeServicer) -> None:
    """As far as the window reaches and no farther; each answer comes once, in order."""
    servicer.paused = True
    session = client.open_session("level")
    with ThreadPoolExecutor(1) as other:
        counts = other.submit(lambda: [outputs["count"][0] for outputs in session.stream(np.ones(30))])
        server.wait(servicer.until(lambda: sum(len(block.inputs[0]) // 4 for block in servicer.seen("block")) == 8))
        server.call(servicer.release)
        assert counts.result() == list(range(1, 31))


def test_a_reading_that_must_be_waited_for_holds_no_answer_up(client: sync.Client) -> None:
    """An iterator is asked for a reading only when the answer before has been given, by the thread that iterates."""
    order: list[str] = []

    def readings() -> Iterator[float]:
        for index in range(3):
            assert threading.current_thread() is threading.main_thread()
            order.append(f"reading {index}")
            yield 1.0

    with client.open_session("level") as session:
        for index, _ in enumerate(session.stream(readings())):
            order.append(f"answer {index}")
    assert order == ["reading 0", "answer 0", "reading 1", "answer 1", "reading 2", "answer 2"]


def test_leaving_a_stream_early_leaves_the_session_usable(
    client: sync.Client, server: Background[str], servicer: FakeServicer
) -> None:
    """Numbering goes on behind what was sent, and no more is taken, however long the answers were not."""
    with client.open_session("level", id="a") as session:
        answers = session.stream(np.ones(1000))
        next(answers)
        server.wait(servicer.until(lambda: servicer.sessions["a"].next_seq > AHEAD))
        answers.close()
        sent = session.next_seq
        assert session.step(1.0)["count"][0] == sent + 1 < 2 * AHEAD


def test_leaving_a_stream_takes_back_what_was_not_sent(
    client: sync.Client, server: Background[str], servicer: FakeServicer
) -> None:
    """Readings that wait for the window when a stream is left are not applied behind the caller's back, the last one taken
    included: `next_seq` is right at once and stays so."""
    window = servicer.pause_at["a"] = servicer.window.steps
    with client.open_session("level", id="a") as session:
        answers = session.stream(np.ones(1000))
        assert next(answers)["count"][0] == 1
        server.wait(servicer.until(lambda: servicer.sessions["a"].pending == window))
        answers.close()
        assert session.next_seq == 2 * window
        server.call(servicer.release)
        assert session.step(1.0)["count"][0] == session.next_seq == 2 * window + 1


def test_a_stream_ends_with_an_error_after_the_answers_before(client: sync.Client, servicer: FakeServicer) -> None:
    """Every answer that came is given before the error is raised."""
    with client.open_session("level", id="a") as session:
        servicer.failures["a", 5] = error(9, "NON_FINITE_STATE")
        counts = []
        with pytest.raises(NonFiniteState):
            for outputs in session.stream(np.ones(100)):
                counts.append(outputs["count"][0])
        assert counts == [1, 2, 3, 4, 5]


async def test_it_works_where_a_loop_runs_already(server: Background[str]) -> None:
    """As in a notebook: without `with`, in a thread whose loop is busy calling."""
    client = sync.Client(server.value)
    session = client.open_session("level")
    assert session.step(1.0)["count"][0] == 1
    assert asyncio.get_running_loop().is_running()
    client.close()


def test_many_threads_share_a_client(client: sync.Client) -> None:
    """Each call is applied once, whichever thread makes it; a session's calls are applied one after the other."""
    shared = client.open_session("level")

    def work(index: int) -> tuple[list[float], list[float]]:
        with client.open_session("level") as own:
            mine = [float(own.step(index)["total"][0]) for _ in range(20)]
            return mine, [float(shared.step(1.0)["count"][0]) for _ in range(20)]

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(work, range(8)))
    assert [mine for mine, _ in results] == [[index * (step + 1) for step in range(20)] for index in range(8)]
    assert sorted(count for _, counts in results for count in counts) == list(range(1, 161))


def test_closing_ends_the_calls_of_other_threads(server: Background[str], servicer: FakeServicer) -> None:
    """Whoever waits is told, later calls are refused, and closing again does nothing."""
    servicer.paused = True
    client = sync.Client(server.value)
    session = client.open_session("level")
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(session.step, 1.0)
        server.wait(servicer.until(lambda: len(servicer.seen("block")) == 1))
        client.close()
        with pytest.raises(ConnectionLost, match="the client was closed"):
            waiting.result()
    with pytest.raises(ConnectionLost, match="the client was closed"):
        client.models()
    client.close()


def test_a_client_that_nobody_refers_to_ends_its_thread(server: Background[str]) -> None:
    """A forgotten client leaves nothing running; a session is a reference to its client."""
    before = set(threading.enumerate())
    session = sync.Client(server.value).open_session("level")
    (thread,) = set(threading.enumerate()) - before
    assert session.step(1.0)["count"][0] == 1
    del session
    assert not thread.is_alive()


def test_results_have_the_types_of_the_asynchronous_ones(client: sync.Client) -> None:
    """What a type checker sees, it sees without casts."""
    with client.open_session("level") as session, session.fork(2) as group:
        assert_type(session, sync.Session)
        assert_type(group, sync.SessionGroup)
        assert_type(session.step(1.0), Outputs)
        assert_type(client.get_session("level", session.id), SessionInfo)
        assert_type(client.fork_session("level", session.id, secret=session.secret), sync.Session)
        assert_type(client.models(), list[stepstream.ModelInfo])
