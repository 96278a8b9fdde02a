"""Forks and snapshots: what they hold, when they are taken, and what they leave untouched."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from stepstream_server import snapshots
from stepstream_server.engine.ports import NO_SEQ, Ending, Forked, Imported, Keep, Opened, Origin
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.snapshots import Snapshot
from support.backend import FakeBackend
from support.engine import Answer, Harness, Refusal


def forked(h: Harness, request: int) -> list[Opened]:
    """The forks that a request has made."""
    reply = h.ear.replies[request]
    assert isinstance(reply, Forked), reply
    assert all(isinstance(one, Opened) for one in reply.sessions)
    return [one for one in reply.sessions if isinstance(one, Opened)]


def refused(h: Harness, request: int) -> StepStreamError:
    """Why a request was refused."""
    reply = h.ear.replies[request]
    assert isinstance(reply, StepStreamError), reply
    return reply


def exported(h: Harness, request: int) -> Snapshot:
    """The snapshot that a request has read out."""
    reply = h.ear.replies[request]
    assert isinstance(reply, Snapshot), reply
    return reply


def test_forks_go_on_from_where_the_original_stands() -> None:
    """Each has its state, its count, nothing kept, and a secret of its own; the original never notices."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0, 2.0]])
    h.settle()
    request = h.fork(a, count=3)
    h.turn()
    forks = forked(h, request)
    assert h.ear.replies[request].next_seq == 2
    assert [(each.next_seq, each.acked) for each in forks] == [(2, 2)] * 3
    assert len({each.secret for each in [a, *forks]}) == 4
    for handle, fork in enumerate(forks, start=1):
        h.attach(fork, stream=2, handle=handle, acked=2)
        h.send([fork], [2], [[10.0 * handle]], stream=2, handles=[handle])
    h.send([a], [2], [[100.0]])
    assert {answer.sums for answer in h.settle() if isinstance(answer, Answer)} == {(13.0,), (23.0,), (33.0,), (103.0,)}
    assert h.reports.opened[Origin.FORKED] == 3


@pytest.mark.parametrize("cut", [1, 3, 1024])
def test_a_fork_waits_for_a_pending_step_and_begins_there(cut: int) -> None:
    """In the middle of a chunk, however launches are cut: the fork has just the steps before, the original has all."""
    h = Harness(backend=FakeBackend(max_batch=cut))
    (a,) = h.open()
    h.send([a], [0], [[1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    requests = [h.fork(a, at) for at in (4, 2, 6, 4)]
    outcomes = h.settle()
    assert [answer.first for answer in outcomes] == sorted(answer.first for answer in outcomes)
    assert sum(answer.length for answer in outcomes) == 6
    for at, request in zip((4, 2, 6, 4), requests, strict=True):
        (fork,) = forked(h, request)
        assert fork.next_seq == at
        assert h.backend.states[h.get(fork.id).slot].tolist() == [at, at]
    assert h.get(a.id).next_seq == 6


def test_a_fork_between_a_step_and_a_reset() -> None:
    """Before the reset it has the state of the steps, after it none; what is pipelined behind comes later."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[5.0, 5.0]])
    h.reset(a, 2)
    h.send([a], [3], [[1.0]])
    before, after, last = h.fork(a, 2), h.fork(a, 3), h.fork(a)
    h.settle()
    sums = [h.backend.states[h.get(forked(h, request)[0].id).slot, 0] for request in (before, after, last)]
    assert sums == [10.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("at_seq", "reason", "expected"), [(0, Reason.SEQUENCE_PASSED, 1), (4, Reason.SEQUENCE_MISMATCH, 3)], ids=["passed", "beyond"]
)
def test_a_number_out_of_reach_is_refused(at_seq: int, reason: Reason, expected: int) -> None:
    """Below what is applied, or above what is admitted."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.settle()
    h.send([a], [1], [[1.0, 1.0]])
    request = h.fork(a, at_seq)
    h.settle()
    assert (refused(h, request).reason, refused(h, request).expected_seq) == (reason, expected)
    assert h.engine.stats().sessions == 1


def test_a_fork_hears_when_its_step_will_not_be_applied() -> None:
    """Because a step before it failed, because its stream has gone, or because the session has ended."""
    h = Harness()
    a, b, c = h.open(3)
    h.send([a], [0], [[1.0, float("inf")]])
    failing = h.fork(a, 2)
    h.settle()
    assert refused(h, failing).reason == Reason.SEQUENCE_MISMATCH
    h.send([b], [0], [[1.0, 1.0]], handles=[1])
    dropped = h.fork(b, 2)
    h.detach(b, handle=1)
    h.send([c], [0], [[1.0]], handles=[2])
    ended = h.fork(c, 1)
    h.detach(c, handle=2, close=True)
    h.settle()
    assert (refused(h, dropped).reason, refused(h, dropped).expected_seq) == (Reason.SEQUENCE_MISMATCH, 0)
    assert refused(h, ended).reason == Reason.SESSION_CLOSED


def test_who_may_copy() -> None:
    """Whoever has the secret; anybody while no stream holds the session; of a quarantined one nobody."""
    h = Harness(backend=FakeBackend(poison=13.0))
    (a,) = h.open()
    stranger, thief = h.fork(a, secret=b""), h.fork(a, secret=b"x" * 16)
    h.turn()
    assert [refused(h, each).reason for each in (stranger, thief)] == [Reason.SESSION_IN_USE, Reason.SECRET_MISMATCH]
    h.detach(a)
    anybody = h.fork(a, secret=b"")
    h.turn()
    assert len(forked(h, anybody)) == 1
    h.attach(a, stream=3)
    h.send([a], [0], [[13.0]], stream=3)
    h.settle()
    assert h.get(a.id).quarantined
    sick = h.fork(a)
    h.turn()
    assert refused(h, sick).reason == Reason.SESSION_QUARANTINED


def test_each_fork_succeeds_by_itself() -> None:
    """Where there is no room for all, some are made."""
    h = Harness(backend=FakeBackend(slots=3))
    (a,) = h.open()
    request = h.fork(a, count=4)
    h.turn()
    made = h.ear.replies[request].sessions
    assert [isinstance(one, Opened) for one in made] == [True, True, False, False]
    assert h.reports.refused == {Reason.SESSION_CAPACITY: 2}


def test_a_repeated_fork_makes_no_more() -> None:
    """Also if the first is still waiting; the forks come back with their secrets."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0, 2.0]])
    requests = [h.fork(a, 2, count=2, request_id="once") for _ in range(2)]
    h.settle()
    requests.append(h.fork(a, 2, count=2, request_id="once"))
    h.turn()
    first, *others = (forked(h, request) for request in requests)
    assert all(other == first for other in others)
    assert h.engine.stats().sessions == 3
    other = h.fork(a, count=1, request_id="once")
    h.turn()
    assert refused(h, other).reason == Reason.INVALID_ARGUMENT


def test_a_snapshot_brings_state_counts_and_kept_answers() -> None:
    """Imported elsewhere, the session goes on; what was not acknowledged is answered from the cache, as it was asked for."""
    h = Harness()
    (a,) = h.open(idle_ttl=60.0)
    h.send([a], [0], [[1.0, 2.0, 3.0]])
    h.settle()
    h.send([a], [3], [[4.0, 5.0]], keep=Keep.LAST, acked=[1])
    request = h.export(a)
    h.settle()
    snapshot = snapshots.decode(snapshots.encode(exported(h, request)))
    assert (snapshot.next_seq, snapshot.acked, snapshot.held.tolist()) == (5, 1, [True, True, False, True])

    other = Harness()
    imported = other.load(snapshot)
    assert isinstance(imported, Imported)
    assert imported.bitwise
    b = imported.opened
    assert (b.id, b.next_seq, b.acked, b.secret != a.secret) == (a.id, 5, 1, True)
    assert other.get(b.id).idle_ttl == 60.0
    other.attach(b, stream=1, acked=1)
    other.send([b], [1], [[9.0, 9.0]])
    other.send([b], [3], [[9.0, 9.0]])
    other.send([b], [5], [[6.0]])
    resent = [Answer(1, 0, 1, 2, (3.0, 6.0)), Answer(1, 0, 3, 1, ()), Answer(1, 0, 4, 1, (15.0,))]
    repeated = [Answer(1, 0, 1, 2, (3.0, 6.0)), Refusal(1, 0, 3, 1, Reason.ANSWER_NOT_KEPT, 5)]
    outcomes = other.settle()
    assert outcomes[:3] == resent
    assert [each for each in repeated if each not in outcomes] == []
    assert outcomes[-1] == Answer(1, 0, 5, 1, (21.0,))
    assert other.engine.stats().steps == 1
    assert other.reports.opened[Origin.IMPORTED] == 1


def test_an_export_can_end_the_session() -> None:
    """Its stream and later callers are told that it has moved; the id may be used again, here too."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    request = h.export(a, close=True, request_id="move")
    h.settle()
    assert h.ear.detached == [(1, 0, Ending.MOVED)]
    assert h.get(a.id).reason == Reason.SESSION_MOVED
    again = h.export(a, close=True, request_id="move")
    h.turn()
    assert exported(h, again) is exported(h, request)
    imported = h.load(exported(h, request), request_id="arrive")
    assert isinstance(imported, Imported)
    assert h.load(exported(h, request), request_id="arrive") == imported
    assert h.load(exported(h, request)).reason == Reason.SESSION_EXISTS
    assert h.load(exported(h, request), "elsewhere").opened.next_seq == 1


def test_an_export_too_large_changes_nothing() -> None:
    """It is refused before the session ends."""
    h = Harness()
    (a,) = h.open()
    request = h.export(a, close=True, most=7)
    h.turn()
    assert refused(h, request).reason == Reason.BLOCK_TOO_LARGE
    assert h.get(a.id).attached


@pytest.mark.parametrize(
    ("changes", "reason", "said"),
    [
        ({"fingerprint": "1" * 64}, Reason.MODEL_MISMATCH, "fingerprint"),
        ({"states": {"last.sum": np.zeros(1, np.float32)}}, Reason.SNAPSHOT_CORRUPT, "state count"),
        ({"states": {"last.sum": np.zeros(2, np.float32), "count": np.zeros(1, np.float32)}}, Reason.SNAPSHOT_CORRUPT, "[1]"),
        ({"states": {"last.sum": np.zeros(1, np.float64), "count": np.zeros(1, np.float32)}}, Reason.SNAPSHOT_CORRUPT, "float64"),
        (
            {"states": {"last.sum": np.full(1, np.nan, np.float32), "count": np.zeros(1, np.float32)}},
            Reason.SNAPSHOT_CORRUPT,
            "finite",
        ),
        ({"outputs": {}}, Reason.SNAPSHOT_CORRUPT, "outputs sum"),
        ({"held": np.zeros(1, np.bool_)}, Reason.SNAPSHOT_CORRUPT, "outputs sum"),
        ({"held": np.zeros(2000, np.bool_)}, Reason.WINDOW_FULL, "1024"),
        ({"id": "not an id"}, Reason.INVALID_ARGUMENT, "id"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused(changes: dict[str, Any], reason: Reason, said: str) -> None:
    """What is wrong is named, and nothing is left behind."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    request = h.export(a, close=True)
    h.settle()
    error = h.load(dataclasses.replace(exported(h, request), **changes))
    assert isinstance(error, StepStreamError)
    assert error.reason == reason
    assert said in error.message
    assert len(h.backend.free) == h.backend.slots


def test_other_numerics_are_reported() -> None:
    """A snapshot of other versions or another instruction set loads all the same."""
    h, other = Harness(), Harness(backend=FakeBackend(numerics="another machine"))
    (a,) = h.open()
    request = h.export(a)
    h.turn()
    assert not other.load(exported(h, request)).bitwise


def test_bytes_that_are_no_snapshot_are_refused() -> None:
    """Every flipped bit and every cut is noticed."""
    h = Harness()
    (a,) = h.open()
    request = h.export(a)
    h.turn()
    data = snapshots.encode(exported(h, request))
    assert snapshots.decode(data).id == a.id
    flipped = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
    for bad in (b"", b"hello", data[:-1], data + b"\0", *flipped):
        with pytest.raises(CallerError) as refusal:
            snapshots.decode(bad)
        assert refusal.value.reason == Reason.SNAPSHOT_CORRUPT


def test_no_seq_means_all_that_is_admitted() -> None:
    """What was sent before the export is in it."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0, 1.0, 1.0]])
    request = h.export(a, NO_SEQ)
    h.settle()
    assert exported(h, request).next_seq == 3


def test_an_export_that_ends_the_session_leaves_no_copy_waiting() -> None:
    """Whatever the order in which they came: the fork at the higher number hears how the session has ended."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0] * 6])
    fork, export = h.fork(a, 6), h.export(a, 3, close=True)
    h.settle()
    assert exported(h, export).next_seq == 3
    assert refused(h, fork).reason == Reason.SESSION_MOVED


def test_a_request_id_stands_for_one_session() -> None:
    """Another session under the same one is refused, and so is who has another secret; what was moved is not driven out by what
    others ask for."""
    h = Harness()
    a, b = h.open(2)
    first = h.export(a, close=True, request_id="move")
    other = h.export(b, close=True, request_id="move")
    h.turn()
    assert exported(h, first).id == a.id
    assert (refused(h, other).reason, refused(h, other).field) == (Reason.INVALID_ARGUMENT, "request_id")
    assert h.get(b.id).attached
    assert str(a.secret) not in str(h.engine._copies._moved._requests._entries)  # but a hash, which takes any time to compare
    thief = h.export(dataclasses.replace(a, secret=b"guessed"), close=True, request_id="move")
    h.turn()
    assert (refused(h, thief).reason, refused(h, thief).field) == (Reason.INVALID_ARGUMENT, "request_id")


def test_an_import_is_held_to_the_windows_of_this_server() -> None:
    """Neither more kept answers than a session may have here, nor any while the cache is full."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0] * 40])
    request = h.export(a, close=True)
    h.settle()
    snapshot = exported(h, request)
    assert Harness(window_bytes=64).load(snapshot).reason == Reason.WINDOW_FULL
    full = Harness(cache_bytes=1)
    assert isinstance(full.load(snapshot), Imported)
    assert full.load(snapshot, "second").reason == Reason.QUEUE_FULL


def test_a_copy_that_waited_asks_again_whose_session_it_is() -> None:
    """Without a secret it may end a session that nobody holds, but not one that somebody has attached meanwhile."""
    h = Harness()
    (a,) = h.open()
    h.detach(a)
    h.call(a, NO_SEQ, [1.0, 1.0, 1.0], stream=77)
    thief = dataclasses.replace(a, secret=b"")
    request = h.export(thief, close=True)
    h.attach(a, stream=2)
    h.settle()
    assert refused(h, request).reason == Reason.SESSION_IN_USE
