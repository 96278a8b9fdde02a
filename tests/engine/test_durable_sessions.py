"""Durable sessions: how they are opened, found by the next server, and ended. A crash is a new engine over the same store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stepstream_server.engine.ports import NO_STREAM, Ending, Find, Get, List, Open, Opened, Origin, Page
from stepstream_server.engine.sessions import finding
from stepstream_server.errors import Reason, StepStreamError
from support.backend import FakeBackend
from support.durable import Durable
from support.engine import Answer, Harness, Refusal


def reason(value: object) -> Reason | None:
    """Why something was refused; None if it was not."""
    return value.reason if isinstance(value, StepStreamError) else None


# Open ------------------------------------------------------------------------------------------------------------------


def test_open_is_answered_once_the_store_has_it() -> None:
    """Explicit ids are looked up, then one write adds all; only then does the stream hold them."""
    h = Durable()
    request = h.open_durably(["a", ""])
    h.turn()
    assert h.asked() == ["Find"]
    h.step()
    assert h.asked() == ["Create"] and h.told(request) is None
    h.step()
    opened = h.told(request)
    assert opened[0].id == "a"
    assert {(each.durable, each.durable_seq, each.epoch, each.bitwise) for each in opened} == {(True, 0, 0, True)}
    assert set(h.stored()) == {each.id for each in opened}
    assert h.engine.held_by(0, 1) == 2


def test_no_store_keeps_nothing_durably() -> None:
    """Whoever asks for durable sessions there is refused."""
    h = Harness()
    refused = h.ask(Open(1, h.request(), [""], np.zeros(1, np.uint32), durable=True))
    assert reason(refused) is Reason.NO_STORE
    assert len(h.engine.books.table) == 0


def test_sessions_are_durable_without_being_asked_where_all_are() -> None:
    """The settings of the server or the model say so."""
    h = Durable(always=True)
    request = h.request()
    h.door.submit(Open(1, request, [""], np.zeros(1, np.uint32)))
    h.done()
    assert h.told(request)[0].durable and len(h.stored()) == 1


def test_an_open_that_the_store_cannot_carry_out_leaves_nothing() -> None:
    """No session, no slot, nothing held and nothing counted."""
    h = Durable()
    request = h.open_durably([""])
    h.turn()
    h.step("fail")
    assert [reason(each) for each in h.told(request)] == [Reason.STORE_UNAVAILABLE]
    assert len(h.engine.books.table) == 0 and len(h.backend.free) == h.backend.slots
    assert h.engine.held_by(0, 1) == 0 and not any(report.opened.get(Origin.OPENED, 0) for report in h.reports.turns)


def test_a_crash_between_the_write_and_the_answer_of_an_open() -> None:
    """The repeat finds the sessions, and is told new secrets, which are written before the answer."""
    h = Durable()
    h.open_durably(["a", ""], request_id="r")
    h.turn()
    h.step()
    h.store.step()  # the write; nobody hears of it
    ids = set(h.stored())
    h.crash()
    request = h.open_durably(["a", ""], request_id="r")
    h.turn()
    h.step()  # a is found
    h.step()  # the request is
    assert h.asked() == ["Write"] and h.told(request) is None
    h.step()
    opened = h.told(request)
    assert {each.id for each in opened} == ids and opened[0].id == "a"
    assert len(h.engine.books.table) == 2
    h.crash()  # right behind the answer: the new secrets hold
    assert [type(h.attached(each, handle=place)) for place, each in enumerate(opened)] == [Opened, Opened]


def test_the_stores_answer_to_an_open_is_lost() -> None:
    """The sessions are undone here; a repeat finds those that the store has, and makes no others."""
    h = Durable()
    request = h.open_durably([""], request_id="r")
    h.turn()
    h.step("lose_reply")
    assert [reason(each) for each in h.told(request)] == [Reason.STORE_UNAVAILABLE]
    again = h.opened("", request_id="r")
    assert [each.id for each in again] == h.stored()
    assert len(h.engine.books.table) == 1 and isinstance(h.attached(again[0]), Opened)


def test_a_repeat_that_overtakes_the_stores_answer_has_the_same_sessions() -> None:
    """The second write finds what the first has added."""
    h = Durable()
    first, second = h.open_durably([""], request_id="r"), h.open_durably([""], stream=2, request_id="r")
    h.done()
    ids = [[each.id for each in h.told(request)] for request in (first, second)]
    assert ids[0] == ids[1] == h.stored()
    assert len(h.engine.books.table) == 1 and h.engine.held_by(0, 2) == 1


def test_a_request_id_of_another_life_stands_for_its_request_alone() -> None:
    """Whoever asks for something else under it is told nothing."""
    h = Durable()
    h.opened("", request_id="r")
    h.crash()
    refused = h.opened("", "", request_id="r")
    assert [reason(each) for each in refused] == [Reason.INVALID_ARGUMENT] * 2
    assert len(h.engine.books.table) == 0


def test_an_id_that_only_the_store_knows_is_taken() -> None:
    """For durable sessions and for others."""
    h = Durable()
    h.opened("a")
    h.crash()
    assert [reason(each) for each in h.opened("a")] == [Reason.SESSION_EXISTS]
    request = h.request()
    h.door.submit(Open(NO_STREAM, request, ["a"]))  # not durable
    h.done()
    assert [reason(each) for each in h.told(request)] == [Reason.SESSION_EXISTS]


def test_the_store_decides_ids() -> None:
    """Whoever else adds one between a look and the write: those that are free are opened."""
    h = Durable()
    other = Durable()
    other.contents = h.contents
    other.crash()
    request = h.open_durably(["b", "a"])
    h.turn()
    h.step()
    other.opened("a")
    h.done()
    b, refused = h.told(request)
    assert b.id == "b" and reason(refused) is Reason.SESSION_EXISTS
    assert set(h.stored()) == {"a", "b"} and len(h.engine.books.table) == 1


def test_nobody_else_has_a_session_before_its_opener() -> None:
    """Others who name its id wait until it is open."""
    h = Durable()
    opened = h.open_durably(["a"])
    h.turn()
    h.step()
    h.call_many(["a"], [-1], [[1.0]], stream=500)
    second = h.open_durably(["a"], stream=2)
    assert h.turn() == [] and h.told(opened) is None
    (outcome,) = h.step()
    assert h.told(opened)[0].id == "a" and [reason(each) for each in h.told(second)] == [Reason.SESSION_EXISTS]
    assert isinstance(outcome, Refusal) and outcome.reason is Reason.SESSION_IN_USE


def test_a_stream_that_left_before_its_sessions_were_open_holds_none() -> None:
    """Sessions that were written stay; one that had not begun never does."""
    h = Durable()
    request = h.open_durably(["a"])
    h.turn()
    h.step()
    h.end_stream(1)
    h.done()
    assert h.told(request)[0].id == "a"
    assert h.engine.stats().streams == 0 and len(h.engine.books.table) == 1
    h.open_durably(["b"])
    h.turn()
    h.end_stream(1)  # before it was looked up: it never was opened
    h.done()
    assert set(h.stored()) == {"a"}


# Find ------------------------------------------------------------------------------------------------------------------


def test_a_session_is_found_by_the_next_server() -> None:
    """Its first touch restores it, in a new epoch, for whoever has its secret."""
    h = Durable()
    (a,) = h.opened("a")
    h.crash()
    assert len(h.engine.books.table) == 0
    again = h.attached(a)
    assert (again.id, again.epoch, again.durable, again.bitwise) == ("a", 1, True, True)
    h.send([again], [0], [[2.0]])
    (answer,) = h.turn()
    assert isinstance(answer, Answer) and answer.sums == (2.0,)
    assert sum(report.restored for report in h.reports.turns) == 1
    assert reason(h.attached(a, secret=b"x" * 16)) is Reason.SECRET_MISMATCH


def test_what_is_missing_is_looked_up_with_one_question() -> None:
    """Whatever commands of a turn name it, and each is answered in its own way."""
    h = Durable()
    opened = h.opened("a", "b", "c")
    h.crash()
    requests = [h.attach_again(each, handle=place) for place, each in enumerate(opened)]
    h.call_many(["a", "nobody"], [-1, -1], [[1.0], [1.0]], stream=500)
    h.turn()
    (task,) = h.store.tasks
    assert isinstance(task, Find) and sorted(task.keys) == ["a", "b", "c", "nobody"]
    outcomes = h.step()
    assert all(isinstance(h.told(request)[0], Opened) for request in requests)
    assert sorted(outcome.reason for outcome in outcomes if isinstance(outcome, Refusal)) == [
        Reason.SESSION_NOT_FOUND,
        Reason.SESSION_IN_USE,
    ]


def test_rows_of_a_call_whose_sessions_are_there_do_not_wait() -> None:
    """The others are carried out once theirs are found."""
    h = Durable()
    h.opened("there", "away", attached=False)
    h.crash()
    h.call_many(["there"], [-1], [[1.0]], stream=500)
    h.done()
    h.call_many(["away", "there"], [-1, -1], [[5.0], [2.0]], stream=500)
    assert h.turn() == [] and h.asked() == ["Find", "Write"]
    (answer,) = h.step()
    assert isinstance(answer, Answer) and (answer.handle, answer.sums) == (1, (3.0,))
    (answer,) = h.step()
    assert isinstance(answer, Answer) and (answer.handle, answer.sums) == (0, (5.0,))


def test_commands_about_a_session_keep_their_order() -> None:
    """Steps, a close behind them, and a step behind that."""
    h = Durable()
    (a,) = h.opened("a", attached=False)
    h.crash()
    for value in (1.0, 2.0, 3.0):
        h.call_many(["a"], [-1], [[value]], stream=500)
    closed = h.submit_close(a)
    h.call_many(["a"], [-1], [[4.0]], stream=500)
    assert h.turn() == []
    h.done()
    assert h.told(closed) is not None
    assert "a" not in h.stored() and h.ended("a") is Ending.CLOSED


def test_whoever_leaves_is_waited_for_no_more() -> None:
    """Streams, one-shot callers and whole doors."""
    h = Durable()
    opened = h.opened("a", "b", attached=False)
    h.crash()
    h.attach_again(opened[0], stream=3)
    h.call_many(["b", "b"], [-1, -1], [[1.0], [2.0]], stream=500)
    h.turn()
    h.end_stream(3)
    h.hang_up(500)
    assert h.done() == []
    assert h.engine.stats().streams == 0
    h.call_many(["b"], [-1], [[5.0]], stream=501)
    (answer,) = h.done()
    assert isinstance(answer, Answer) and answer.sums == (5.0,)
    request = h.attach_again(opened[0], stream=4)
    h.crash()
    request = h.attach_again(opened[0], stream=4)
    h.turn()
    h.lose_door()
    h.done()
    assert h.told(request) is None


def test_no_more_wait_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are refused, and told when to come again."""
    monkeypatch.setattr(finding, "_MOST_PARKED", 1)
    h = Durable()
    opened = h.opened("a", "b")
    h.crash()
    first, second = (h.attach_again(each, handle=place) for place, each in enumerate(opened))
    h.call_many(["b"], [-1], [[1.0]], stream=500)
    (refusal,) = h.turn()
    assert isinstance(refusal, Refusal) and refusal.reason is Reason.QUEUE_FULL
    assert reason(h.told(second)) is Reason.QUEUE_FULL and h.told(second).retry_delay_seconds > 0
    h.done()
    assert isinstance(h.told(first)[0], Opened)


def test_any_number_of_commands_may_be_released_at_once() -> None:
    """They are carried out one after the other, not one within the other."""
    h = Durable()
    requests = [h.request() for _ in range(1100)]
    h.door.submit(*(Get(request, f"nobody-{request}") for request in requests))
    h.turn()
    h.step()
    assert {reason(h.told(request)) for request in requests} == {Reason.SESSION_NOT_FOUND}


def test_a_store_that_is_down_refuses_those_who_wait_and_nobody_else() -> None:
    """Sessions in memory go on, and all is well once it is back."""
    h = Durable()
    opened = h.opened("a", "b")
    h.crash()
    assert isinstance(h.attached(opened[0]), Opened)
    request = h.attach_again(opened[1], handle=1)
    h.call_many(["b"], [-1], [[1.0]], stream=500)
    h.send([opened[0]], [0], [[1.0]])
    assert isinstance(h.turn()[0], Answer)
    (refusal,) = h.step("fail")
    assert isinstance(refusal, Refusal) and refusal.reason is Reason.STORE_UNAVAILABLE
    assert [reason(each) for each in h.told(request)] == [Reason.STORE_UNAVAILABLE]
    assert isinstance(h.attached(opened[1], handle=1), Opened)


@pytest.mark.parametrize("why", [Reason.RECORD_UNREADABLE, Reason.MODEL_MISMATCH])
def test_a_record_that_cannot_be_read_is_refused_and_left_alone(why: Reason) -> None:
    """It may be of a newer format, or of another model."""
    h = Durable()
    (a,) = h.opened("a")
    if why is Reason.RECORD_UNREADABLE:
        h.write_newer_format("a")
    else:
        h.spec = replace(h.spec, fingerprint="f" * 64)
    h.crash()
    assert reason(h.attached(a)) is why
    closed = h.submit_close(a)
    h.done()
    assert reason(h.told(closed)) is why
    assert [reason(each) for each in h.opened("a")] == [why]
    assert sum(report.lost.get(why, 0) for report in h.reports.turns) == 3
    assert "a" in h.stored() and h.ended("a") is None and len(h.engine.books.table) == 0


def test_there_must_be_room_for_what_is_restored() -> None:
    """Whoever names one session too many is refused, and has it later."""
    h = Durable()
    opened = h.opened("a", "b", "c", attached=False)
    h.crash(FakeBackend(slots=2))
    h.call_many(["a", "b", "c"], [-1] * 3, [[1.0]] * 3, stream=500)
    outcomes = h.done()
    assert sorted(outcome.handle for outcome in outcomes if isinstance(outcome, Answer)) == [0, 1]
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, Refusal)] == [Reason.SESSION_CAPACITY]
    h.submit_close(opened[0])
    h.done()
    h.call_many(["c"], [-1], [[1.0]], stream=500)
    assert isinstance(h.done()[0], Answer)


def test_other_numerics_are_said() -> None:
    """Whoever attaches hears that bits may differ from here on."""
    h = Durable()
    (a,) = h.opened("a")
    h.crash(FakeBackend(numerics="by another hand"))
    assert h.attached(a).bitwise is False


def test_a_client_that_kept_too_little_has_lost_its_session() -> None:
    """One that kept the inputs from the restored step on has not."""
    h = Durable()
    opened = h.opened("a", "b", "c")
    h.crash()
    lost = h.attached(opened[0], acked=5)
    assert (reason(lost), lost.since) == (Reason.SESSION_LOST, 0)
    assert (reason(h.attached(opened[1], acked=5, replay_from=1, handle=1))) is Reason.SESSION_LOST
    again = h.attached(opened[2], acked=5, replay_from=0, handle=2)
    assert (again.next_seq, again.acked) == (0, 0)
    assert sum(report.replayed for report in h.reports.turns) == 5
    assert sum(report.lost.get(Reason.SESSION_LOST, 0) for report in h.reports.turns) == 2
    assert h.engine.held_by(0, 1) == 1


# End -------------------------------------------------------------------------------------------------------------------


def test_close_is_answered_once_the_store_knows() -> None:
    """The session has ended at once, and stays so."""
    h = Durable()
    (a,) = h.opened("a")
    request = h.submit_close(a, b"")
    h.turn()
    assert reason(h.told(request)) is Reason.SESSION_IN_USE  # a stream holds it
    request = h.submit_close(a)
    h.turn()
    assert h.told(request) is None and h.ear.detached == [(1, 0, Ending.CLOSED)]
    h.done()
    assert h.told(request) == 0
    h.crash()
    assert reason(h.attached(a)) is Reason.SESSION_CLOSED


def test_close_with_the_store_down_is_tried_again_and_nothing_comes_back() -> None:
    """Whoever names it waits for the next try, and is told how that went."""
    h = Durable()
    (a,) = h.opened("a", attached=False)
    first = h.submit_close(a)
    h.turn()
    h.step("fail")
    assert reason(h.told(first)) is Reason.STORE_UNAVAILABLE
    attach, second = h.attach_again(a), h.submit_close(a)
    h.turn()
    assert not h.store.tasks and h.told(attach) is None and h.told(second) is None
    h.clock.advance(0.1)
    h.turn()
    assert h.asked() == ["End"]
    h.step("fail")
    assert [reason(each) for each in h.told(attach)] == [Reason.STORE_UNAVAILABLE]
    assert reason(h.told(second)) is Reason.STORE_UNAVAILABLE
    third = h.submit_close(a)
    assert h.engine.next_deadline == pytest.approx(h.clock() + 0.2)
    h.clock.advance(0.2)
    h.done()
    assert h.told(third) == 0 and not h.stored()
    assert reason(h.attached(a)) is Reason.SESSION_CLOSED


def test_a_stream_hears_that_its_session_is_closed_once_the_store_knows() -> None:
    """It also hears if the store does not know yet."""
    h = Durable()
    a, b = h.opened("a", "b")
    h.detach(a, handle=0, close=True)
    h.turn()
    assert h.ear.detached == [] and h.engine.held_by(0, 1) == 1
    h.done()
    assert h.ear.detached == [(1, 0, Ending.CLOSED)] and h.ear.not_closed == []
    h.detach(b, handle=1, close=True)
    h.turn()
    h.step("fail")
    assert h.ear.detached[1:] == [(1, 1, Ending.CLOSED)]
    assert [(stream, handle, error.reason) for stream, handle, error in h.ear.not_closed] == [(1, 1, Reason.STORE_UNAVAILABLE)]


def test_a_session_that_is_over_by_the_wall_clock_has_expired() -> None:
    """Nobody has it back, and the store knows why."""
    h = Durable(idle_ttl_seconds=10.0)
    (a,) = h.opened("a")
    h.crash()
    h.clock.advance(10.0)
    assert reason(h.attached(a)) is Reason.SESSION_EXPIRED
    assert h.ended("a") is Ending.EXPIRED and not h.stored()


def test_idle_time_counts_while_the_server_is_away() -> None:
    """It begins with the last step, whoever has applied that."""
    h = Durable(idle_ttl_seconds=10.0)
    (a,) = h.opened("a")
    h.clock.advance(4.0)
    h.crash()
    h.clock.advance(4.0)
    assert isinstance(h.attached(a), Opened)
    h.clock.advance(1.0)
    h.done()
    assert h.get("a").idle == pytest.approx(9.0) and h.get("a").age == pytest.approx(9.0)
    h.clock.advance(1.5)
    h.done()
    assert h.ear.detached == [(1, 0, Ending.EXPIRED)] and h.ended("a") is Ending.EXPIRED


def test_nobody_has_to_name_what_is_overdue_for_it_to_end() -> None:
    """The server looks once a minute."""
    h = Durable(idle_ttl_seconds=10.0)
    h.opened("a", "b")
    h.crash()
    h.clock.advance(59.0)
    h.done()
    assert set(h.stored()) == {"a", "b"}
    h.clock.advance(1.0)
    h.done()
    assert {h.ended("a"), h.ended("b")} == {Ending.EXPIRED} and not h.stored()


def test_a_session_that_moves_has_ended_before_its_snapshot_leaves() -> None:
    """A repeat of the export waits for that too."""
    h = Durable()
    (a,) = h.opened("a")
    request = h.export(a, close=True, request_id="m")
    h.turn()
    assert h.told(request) is None
    h.step("fail")
    assert reason(h.told(request)) is Reason.STORE_UNAVAILABLE
    request = h.export(a, close=True, request_id="m")
    h.turn()
    assert h.told(request) is None
    h.clock.advance(0.1)
    h.done()
    assert h.told(request).id == "a" and h.ended("a") is Ending.MOVED


# Copies ----------------------------------------------------------------------------------------------------------------


def test_forks_of_a_durable_session_are_durable() -> None:
    """A repeat finds them in another life."""
    h = Durable()
    (a,) = h.opened("a")
    request = h.fork(a, count=2, request_id="f")
    h.done()
    forks = h.told(request).sessions
    assert [each.durable for each in forks] == [True, True]
    h.crash()
    again = h.fork(a, count=2, request_id="f")
    h.done()
    assert [each.id for each in h.told(again).sessions] == [each.id for each in forks]
    assert [each.secret for each in h.told(again).sessions] != [each.secret for each in forks]
    assert len(h.stored()) == 3


def test_a_fork_that_was_made_is_found_though_its_original_has_ended() -> None:
    """One that was not made is refused as ever."""
    h = Durable()
    (a,) = h.opened("a")
    request = h.fork(a, request_id="f")
    h.done()
    (fork,) = h.told(request).sessions
    h.submit_close(a)
    h.done()
    h.crash()
    again, other = h.fork(a, request_id="f"), h.fork(a, request_id="g")
    h.done()
    assert h.told(again).sessions[0].id == fork.id
    assert reason(h.told(other)) is Reason.SESSION_CLOSED


def test_imports_may_be_durable() -> None:
    """A repeat finds them in another life."""
    h = Durable()
    (a,) = h.opened("a")
    exported = h.export(a)
    h.done()
    snapshot = h.told(exported)
    request = h.submit_load(snapshot, "b", "i")
    h.done()
    assert h.told(request).opened.durable and set(h.stored()) == {"a", "b"}
    h.crash()
    again = h.submit_load(snapshot, "b", "i")
    h.done()
    assert h.told(again).opened.id == "b" and len(h.stored()) == 2
    refused = h.submit_load(snapshot, "b", "j")
    h.done()
    assert reason(h.told(refused)) is Reason.SESSION_EXISTS


# List ------------------------------------------------------------------------------------------------------------------


def test_lists_go_on_in_the_store() -> None:
    """Behind those in memory, by key, without these."""
    h = Durable()
    h.opened("d", "b", "c", "a", attached=False)
    h.crash()
    h.call_many(["c"], [-1], [[1.0]], stream=500)
    h.done()
    seen: list[tuple[str, bool, bool, int]] = []
    start: int | str | None = 0
    while start is not None:
        request = h.request()
        h.door.submit(List(request, start, 2))
        h.done()
        page = h.told(request)
        assert isinstance(page, Page)
        seen += [(info.id, info.stored, info.durable, info.next_seq) for info in page.sessions]
        start = page.next
    assert seen == [("c", False, True, 1), ("a", True, True, 0), ("b", True, True, 0), ("d", True, True, 0)]
    request = h.request()
    h.door.submit(List(request, "", 2))
    h.turn()
    h.step("fail")
    assert reason(h.told(request)) is Reason.STORE_UNAVAILABLE


# Sequences of one-shot callers -----------------------------------------------------------------------------------------


def test_a_row_that_ends_its_session_ends_it_in_the_store() -> None:
    """A repeat of the row waits for that, and is answered again."""
    h = Durable(always=True)
    h.call_many(["a"], [0], [[1.0]], stream=500, starts=[True])
    h.done()
    h.call_many(["a"], [1], [[2.0]], stream=501, ends=[True])
    h.turn()
    assert h.asked()[-1] == "End"
    h.call_many(["a"], [1], [[2.0]], stream=502, ends=[True])
    assert not [each for each in h.turn() if each.stream == 502]
    (answer,) = [each for each in h.done() if each.stream == 502]
    assert isinstance(answer, Answer) and answer.sums == (3.0,)
    assert h.stored() == [] and h.ended("a") is Ending.CLOSED


def test_a_repeat_of_a_row_that_ended_its_session_is_told_that_the_store_does_not_know() -> None:
    """The row itself was told so, too: nobody hears of a step that a crash would undo."""
    h = Durable()
    h.opened("a", attached=False)
    for stream in (500, 501):
        h.call_many(["a"], [0], [[1.0]], stream=stream, ends=[True])
        h.turn()
        h.clock.advance(1.0)
        h.turn()
        assert h.asked() == ["End"]
        (outcome,) = h.step("fail")
        assert isinstance(outcome, Refusal) and outcome.reason is Reason.STORE_UNAVAILABLE
    assert h.stored() == ["a"]


def test_a_session_that_is_started_in_place_of_a_durable_one_replaces_it_in_the_store() -> None:
    """If sessions are not durable unless their opener asks for it, the former one is gone from there."""
    h = Durable()
    h.opened("a", attached=False)
    h.crash()
    h.call_many(["a"], [0], [[7.0]], stream=500, starts=[True])
    (answer,) = h.done()
    assert isinstance(answer, Answer) and answer.sums == (7.0,)
    assert h.stored() == []
    assert h.get("a").durable is False


# What a session is restored with ---------------------------------------------------------------------------------------


def test_a_fork_that_is_written_is_restored_with_all_that_it_had() -> None:
    """State, numbers, and what its client has not acknowledged; the original's numerics too."""
    h = Durable()
    (a,) = h.opened("a")
    h.send([a], [0], [[1.0, 2.0, 3.0]])
    h.done()
    request = h.fork(a)
    h.done()
    (fork,) = h.told(request).sessions
    h.crash(FakeBackend(numerics="by another hand"))
    again = h.attached(fork, acked=3)
    assert (again.next_seq, again.acked, again.durable_seq, again.bitwise) == (3, 3, 3, False)
    request = h.fork(again, secret=fork.secret)
    h.done()
    assert h.told(request).sessions[0].bitwise is False
    h.send([again], [3], [[4.0]])
    (answer,) = h.done()
    assert isinstance(answer, Answer) and answer.sums == (10.0,)


def test_an_import_is_restored_with_its_unacknowledged_answers() -> None:
    """They are sent again to whoever attaches."""
    h = Durable()
    (a,) = h.opened("a")
    h.send([a], [0], [[1.0, 2.0, 3.0]])
    h.done()
    exported = h.export(a)
    h.done()
    loaded = h.submit_load(h.told(exported), "b")
    h.done()
    b = h.told(loaded).opened
    h.crash()
    request = h.attach_again(b, acked=1)
    (answer,) = h.done()
    assert h.told(request)[0].next_seq == 3
    assert isinstance(answer, Answer) and (answer.first, answer.sums) == (1, (3.0, 6.0))


class Going(Durable):
    """Durable sessions where time goes on whenever somebody looks, as it does."""

    _looks = 0

    def unix(self) -> float:
        self._looks += 1
        return super().unix() + 1e-4 * self._looks


@pytest.mark.parametrize("died", [True, False], ids=["restored", "in memory"])
def test_a_request_finds_its_own_session_though_time_goes_on_while_it_is_opened(died: bool) -> None:
    """Whatever is read of the clock in between: a session was opened before its request was written."""
    h = Going()
    (mine,) = h.opened("x", attached=False, request_id="r")
    h.crash()
    if not died:
        h.attached(mine)
    (repeated,) = h.opened("x", attached=False, request_id="r")
    assert isinstance(repeated, Opened) and repeated.id == "x"


def test_a_request_does_not_find_a_session_that_another_has_opened_since() -> None:
    """Its own was closed, and another one has the id; its owner keeps it."""
    h = Durable()
    (mine,) = h.opened("x", attached=False, request_id="r")
    h.submit_close(mine)
    h.done()
    h.clock.advance(1.0)
    (theirs,) = h.opened("x", attached=False, request_id="another")
    h.crash()
    (repeated,) = h.opened("x", attached=False, request_id="r")
    assert isinstance(repeated, StepStreamError) and repeated.reason is Reason.SESSION_CLOSED
    assert isinstance(h.attached(theirs), Opened)
