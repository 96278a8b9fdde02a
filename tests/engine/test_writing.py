"""Writing behind: when durable sessions are written, in which groups, and what happens where the store is slow or fails."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stepstream_server.engine.durable import writing
from stepstream_server.engine.ports import Ending, Flush, Group, Keep, Opened, Write
from stepstream_server.errors import Reason, StepStreamError
from support.backend import FakeBackend
from support.durable import Durable
from support.engine import Answer, Refusal

EVERY_SECONDS, EVERY_STEPS = 0.1, 256  # the settings' defaults


def writes(h: Durable) -> list[Group]:
    """The groups that the store is asked to write."""
    return [task.group for task in h.store.tasks if isinstance(task, Write)]


def written(h: Durable) -> dict[str, int]:
    """The steps of each session in the one group that the store is asked to write."""
    (group,) = writes(h)
    return dict(zip(group.keys, group.heads["next_seq"].tolist(), strict=True))


def step(h: Durable, session: Opened, first: int, count: int = 1, *, handle: int = 0) -> None:
    """Steps a session that stream 1 holds."""
    h.send([session], [first], [[1.0] * count], handles=[handle], acked=[first])
    h.settle()
    h.engine.books.check()


# When ------------------------------------------------------------------------------------------------------------------


def test_a_session_is_written_some_time_after_its_first_step() -> None:
    """Later steps do not put it off; the stream that holds it hears of it."""
    h = Durable()
    (a,) = h.opened("a")
    step(h, a, 0)
    assert h.engine.next_deadline == h.clock() + EVERY_SECONDS
    h.clock.advance(EVERY_SECONDS * 0.9)
    step(h, a, 1)
    assert writes(h) == []
    h.clock.advance(EVERY_SECONDS * 0.1)
    h.turn()
    assert written(h) == {"a": 2}
    assert h.get("a").durable_seq == 0
    h.step()
    assert h.ear.durable == {(1, 0): 2}
    assert h.get("a").durable_seq == 2


def test_one_group_holds_all_that_the_store_does_not_have() -> None:
    """Those too whose time has not come: one write costs as much as many."""
    h = Durable()
    a, b, _ = h.opened("a", "b", "c")
    step(h, a, 0)
    h.clock.advance(EVERY_SECONDS)
    step(h, b, 0, handle=1)
    assert written(h) == {"a": 1, "b": 1}
    h.step()
    assert h.ear.durable == {(1, 0): 1, (1, 1): 1}


def test_a_session_is_written_after_so_many_steps() -> None:
    """At once, and with it those that have half as many."""
    h = Durable()
    a, b, c = h.opened("a", "b", "c")
    step(h, b, 0, EVERY_STEPS // 2, handle=1)
    step(h, c, 0, EVERY_STEPS // 2 - 1, handle=2)
    assert writes(h) == []
    step(h, a, 0, EVERY_STEPS)
    assert written(h) == {"a": EVERY_STEPS, "b": EVERY_STEPS // 2}
    h.step()
    assert writes(h) == []
    assert h.engine.next_deadline == h.clock() + EVERY_SECONDS  # of c


def test_one_group_is_under_way_at_most() -> None:
    """A slow store makes the lag grow, and nothing else; what it is told next is as sessions stand then."""
    h = Durable()
    (a,) = h.opened("a")
    step(h, a, 0)
    h.clock.advance(EVERY_SECONDS)
    h.turn()
    for seq in range(1, 4):
        h.clock.advance(1.0)
        step(h, a, seq, 1)
    assert written(h) == {"a": 1}
    assert h.engine.next_deadline > h.clock() + 1.0, "nobody waits for what cannot be done"
    assert h.engine.stats().lag_seconds == pytest.approx(3.0 + EVERY_SECONDS)
    h.step()
    assert h.ear.durable == {(1, 0): 1}
    assert written(h) == {"a": 4}
    assert h.engine.stats().lag_seconds == pytest.approx(2.0)
    h.step()
    assert (h.ear.durable, h.engine.stats().lag_seconds, writes(h)) == ({(1, 0): 4}, 0.0, [])


def test_a_group_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest follows, those first that have waited for longest."""
    monkeypatch.setattr(writing, "_MOST_ROWS", 2)
    h = Durable()
    sessions = h.opened("a", "b", "c")
    for handle in (2, 0, 1):
        step(h, sessions[handle], 0, handle=handle)
    h.clock.advance(EVERY_SECONDS)
    h.turn()
    assert list(written(h)) == ["c", "a"]
    h.step()
    assert list(written(h)) == ["b"]


def test_what_changes_a_session_is_written() -> None:
    """Resets and faults are; acknowledgements are not, since they change nothing that anybody would miss."""
    h = Durable(FakeBackend(poison=13.0))
    (a,) = h.opened("a")
    step(h, a, 0)
    h.clock.advance(EVERY_SECONDS)
    h.done()
    h.acknowledge(a, 1)
    h.turn()
    assert h.engine.stats().lag_seconds == 0.0 and len(h.engine.books.dirty) == 0
    h.send([a], [1], [[13.0]])
    h.turn()
    h.clock.advance(EVERY_SECONDS)
    h.turn()
    assert written(h) == {"a": 1} and writes(h)[0].heads["quarantined"].all()
    h.step()
    h.reset(a, 1)
    h.turn()
    h.clock.advance(EVERY_SECONDS)
    h.turn()
    assert written(h) == {"a": 2} and not writes(h)[0].heads["quarantined"].any()


def test_sessions_that_are_not_durable_are_not_written() -> None:
    """Though there is a store."""
    h = Durable()
    (a,) = h.open()
    step(h, a, 0, EVERY_STEPS)
    h.clock.advance(1.0)
    h.turn()
    assert h.store.tasks == type(h.store.tasks)()
    assert (h.engine.stats().durable_sessions, h.engine.stats().lag_seconds) == (0, 0.0)


def test_a_group_holds_sessions_as_they_stand_and_never_changes() -> None:
    """States, what is not acknowledged, and which of that has outputs: column by column, however much of it each has."""
    h = Durable()
    a, b, c = h.opened("a", "b", "c")
    h.send([a, b], [0, 0], [[1.0, 2.0, 3.0], [5.0]])
    h.send([c], [0], [[7.0, 7.0]], handles=[2], keep=Keep.LAST)
    h.settle()
    h.acknowledge(a, 1)
    h.clock.advance(EVERY_SECONDS)
    h.turn()
    h.send([a, b], [3, 1], [[4.0], [6.0]])
    h.settle()
    (group,) = writes(h)
    assert list(group.keys) == ["a", "b", "c"]
    assert group.heads[["next_seq", "acked"]].tolist() == [(3, 1), (1, 0), (2, 0)]
    assert group.states["last.sum"][:, 0].tolist() == [6.0, 5.0, 14.0]
    assert group.held.tolist() == [True, True, True, False, True]
    assert group.outputs[0][:, 0].tolist() == [3.0, 6.0, 5.0, 14.0]
    assert group.heads["used_at"].tolist() == [h.unix() - EVERY_SECONDS] * 3
    assert group.secrets.shape == (3, 32) and group.drawn == {}


# A store that fails ----------------------------------------------------------------------------------------------------


def test_what_the_store_did_not_take_is_written_again() -> None:
    """With the newest states, after longer and longer pauses; the lag counts from the first step that is wanting."""
    h = Durable()
    a, b = h.opened("a", "b")
    step(h, a, 0)
    h.clock.advance(EVERY_SECONDS)
    h.turn()
    step(h, b, 0, handle=1)
    begun, pauses = h.clock() - EVERY_SECONDS, []
    for seq in range(1, 8):
        failed_at = h.clock()
        h.step("fail")
        assert writes(h) == []
        step(h, a, seq)
        h.clock.advance(h.engine.next_deadline - h.clock())
        h.turn()
        pauses.append(round(h.clock() - failed_at, 6))
        assert written(h) == {"a": seq + 1, "b": 1}
        assert h.engine.stats().lag_seconds == pytest.approx(h.clock() - begun)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]
    assert h.ear.durable == {}
    h.step()
    assert h.ear.durable == {(1, 0): 8, (1, 1): 1}
    assert sum(each.store_failures for each in h.reports.turns) == 7
    assert sum(each.written for each in h.reports.turns) == 2
    assert sum(each.written_bytes for each in h.reports.turns) > 0
    step(h, a, 8)
    h.clock.advance(EVERY_SECONDS)
    h.turn()
    h.step("fail")
    assert h.engine.next_deadline == h.clock() + 0.1, "after a success pauses begin anew"


def test_a_reply_of_the_store_is_lost() -> None:
    """The session is written again: that does no harm."""
    h = Durable()
    (a,) = h.opened("a")
    step(h, a, 0)
    h.clock.advance(EVERY_SECONDS)
    h.turn()
    h.step("lose_reply")
    assert h.ear.durable == {}
    h.clock.advance(0.1)
    h.done()
    assert h.ear.durable == {(1, 0): 1}


def test_those_come_first_again_that_the_store_did_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though others have come to be written meanwhile."""
    h = Durable()
    a, b = h.opened("a", "b")
    step(h, a, 0)
    h.clock.advance(EVERY_SECONDS)
    h.turn()
    step(h, b, 0, handle=1)
    h.step("fail")
    monkeypatch.setattr(writing, "_MOST_ROWS", 1)
    h.clock.advance(0.1)
    h.turn()
    assert list(written(h)) == ["a"]
    h.engine.books.check()


def test_no_durable_sessions_are_opened_while_the_store_is_far_behind() -> None:
    """Others are, and those that there are go on."""
    h = Durable()
    (a,) = h.opened("a")
    step(h, a, 0)
    h.clock.advance(5.0 + EVERY_SECONDS)
    h.turn()
    request = h.open_durably([""])
    h.turn()
    refused = h.told(request)
    assert isinstance(refused, StepStreamError) and refused.reason is Reason.STORE_UNAVAILABLE
    assert refused.retry_delay_seconds > 0
    assert len(h.open(stream=2)) == 1
    step(h, a, 1)
    h.done()
    assert len(h.opened("b", stream=3)) == 1


# Sessions that end or change hands -------------------------------------------------------------------------------------


def test_a_session_that_ends_while_it_is_written_is_not_seen_again() -> None:
    """Its number is another session's by then, which is told nothing of it; a failed group does not write it again."""
    for how in ("step", "fail"):
        h = Durable()
        (a,) = h.opened("a")
        step(h, a, 0)
        h.clock.advance(EVERY_SECONDS)
        h.turn()
        h.detach(a, close=True)
        h.turn()
        (other,) = h.open(stream=2)
        assert (other.session, h.asked()) == (a.session, ["Write", "End"])
        getattr(h.store, how)()
        h.turn()
        h.clock.advance(1.0)
        h.done()
        assert h.stored() == [] and h.ended("a") is Ending.CLOSED
        assert h.ear.durable == {}
        assert h.get(other.id).durable_seq == 0
        h.engine.books.check()


def test_whoever_holds_a_session_by_then_hears_what_the_store_has() -> None:
    """Nobody does who has let it go."""
    h = Durable()
    a, b = h.opened("a", "b")
    step(h, a, 0)
    step(h, b, 0, handle=1)
    h.clock.advance(EVERY_SECONDS)
    h.turn()
    assert h.attach(a, stream=2, handle=7, acked=1).durable_seq == 0
    h.detach(b, handle=1)
    h.turn()
    h.step()
    assert h.ear.durable == {(2, 7): 1}
    assert h.attach(b, stream=2, handle=8, acked=1).durable_seq == 1


def test_a_write_finds_no_launch_under_way() -> None:
    """Of a backend that computes several at once: all of them are part of the group, and sessions end that end with them."""
    h = Durable(FakeBackend(depth=2), always=True)
    h.lands = False
    (a,) = h.opened("a")
    h.call_many(["b"], [0], [[1.0]], stream=500, starts=[True])
    h.done()
    h.clock.advance(1.0)
    h.done()
    h.send([a], [0], [[1.0]])
    h.turn()
    h.engine.land()
    h.clock.advance(EVERY_SECONDS)
    h.call_many(["b"], [1], [[1.0]], stream=501, ends=[True])
    h.send([a], [1], [[1.0]])
    h.turn()
    h.engine.books.check()
    assert h.asked() == ["End", "Write"] and written(h) == {"a": 2}


# Flush, drain and what is seen from outside ----------------------------------------------------------------------------


def test_a_flush_is_answered_once_the_store_has_all() -> None:
    """Nothing waits for its time then; a store that fails is tried until it does not."""
    h = Durable()
    a, b = h.opened("a", "b")
    step(h, a, 0)
    request = h.request()
    h.door.submit(Flush(request))
    h.turn()
    assert written(h) == {"a": 1}
    step(h, b, 0, handle=1)
    h.step("fail")
    assert writes(h) == []
    h.clock.advance(0.1)
    h.turn()
    assert written(h) == {"a": 1, "b": 1}
    assert request not in h.ear.replies
    h.detach(b, handle=1, close=True)
    h.turn()
    h.store.step()
    h.turn()
    assert request not in h.ear.replies, "the store does not know yet that a session has ended"
    h.step()
    assert h.ear.replies[request] is None
    step(h, a, 1)
    assert writes(h) == [], "it is over"


def test_a_flush_of_what_the_store_has_is_answered_at_once() -> None:
    """So it is where nothing is durable."""
    h = Durable()
    h.opened("a")
    assert h.ask(Flush(h.request())) is None


def test_a_drain_waits_for_those_who_wait_for_the_store() -> None:
    """Else the server would end before they are answered."""
    h = Durable()
    (a,) = h.opened("a", attached=False)
    h.call(a, 0, [1.0], stream=500)
    h.turn()
    drain = h.drain()
    assert h.turn() == [] and drain not in h.ear.replies
    (answer,) = h.step()
    assert isinstance(answer, Answer) and h.ear.replies[drain] is None


def test_what_is_to_be_seen_of_durable_sessions() -> None:
    """How many there are; and clients hear how much they should be ready to tell again."""
    h = Durable()
    a, *_ = h.opened("a", "b")
    h.open(stream=2)
    assert h.engine.stats().durable_sessions == 2
    h.detach(a, close=True)
    h.done()
    assert h.engine.stats().durable_sessions == 1
    assert h.engine.limits.replay_steps == 4 * EVERY_STEPS
    assert h.engine.next_deadline < math.inf


def test_bits_do_not_depend_on_what_is_written() -> None:
    """A session computes what it computes, whether or not it is durable."""
    values = np.random.default_rng(0).normal(size=40).tolist()
    told = []
    for durable in (False, True):
        h = Durable()
        (a,) = h.opened("a") if durable else h.open()
        for seq, value in enumerate(values):
            h.send([a], [seq], [[value]], acked=[max(0, seq - 3)])
            told += [each.sums for each in h.turn() if isinstance(each, Answer)]
            h.clock.advance(0.03)
            if durable:
                told += [each.sums for each in h.step() if isinstance(each, Answer)]
        assert not [each for each in h.settle() if isinstance(each, Refusal)]
    assert told[: len(values)] == told[len(values) :]


def test_a_group_holds_no_more_answers_than_may_be_gathered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others follow with the next one."""
    h = Durable()
    a, b = h.opened("a", "b")
    step(h, a, 0, 3)
    step(h, b, 0, 3, handle=1)
    monkeypatch.setattr(writing, "_MOST_BYTES", 2 * h.backend.state_bytes + 5 * h.engine.books.cache.step_bytes)
    h.clock.advance(EVERY_SECONDS)
    h.turn()
    assert list(written(h)) == ["a"]
    h.step()
    assert list(written(h)) == ["b"]
