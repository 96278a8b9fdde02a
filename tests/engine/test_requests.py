"""Request ids, many sessions at once, pages of sessions, and order among refusals, repeats and acknowledgements."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from stepstream_server import snapshots
from stepstream_server.engine.ports import NO_SEQ, NO_STREAM, Ending, Export, Fork, Import, List, Open, Opened, Page
from stepstream_server.errors import Reason, StepStreamError
from stepstream_server.spec import HeadSpec, TensorSpec
from support.backend import FakeBackend, counter_spec
from support.engine import Answer, Harness, Refusal
from support.rollouts import Rolling


class Wide(Harness):
    """Sessions of a model that takes three numbers per step, and adds up the first."""

    spec = dataclasses.replace(
        counter_spec(),
        inputs=(TensorSpec("x", "float32", (3,)),),
        heads=(HeadSpec("sum", "regression", 1), HeadSpec("count", "regression", 1)),
    )


def test_a_repeated_open_finds_the_sessions_of_the_first() -> None:
    """On another stream it takes them over; the answers kept meanwhile come again."""
    h = Harness()
    first = h.open(2, stream=1, request_id="gateway")
    h.send(first, [0, 0], [[1.0], [2.0]])
    h.settle()
    again = h.open(2, stream=2, request_id="gateway")
    assert [(one.id, one.secret, one.next_seq) for one in again] == [(one.id, one.secret, 1) for one in first]
    assert h.ear.detached == [(1, 0, Ending.TAKEN), (1, 1, Ending.TAKEN)]
    assert h.turn() == [Answer(2, 0, 0, 1, (1.0,)), Answer(2, 1, 0, 1, (2.0,))]
    assert h.engine.stats().sessions == 2


def test_a_repeated_open_tries_again_what_was_refused() -> None:
    """Where there was no room, there may be now."""
    h = Harness(backend=FakeBackend(slots=2))
    (other,) = h.open(1, first_handle=9)
    first = h.open(2, request_id="two")
    assert [isinstance(one, Opened) for one in first] == [True, False]
    h.close(other, other.secret)
    again = h.open(2, stream=2, request_id="two")
    assert [isinstance(one, Opened) for one in again] == [True, True]
    assert again[0].id == first[0].id


def test_a_repeated_open_tells_how_a_session_has_ended() -> None:
    """It is not opened anew: the caller has had it."""
    h = Harness()
    (first,) = h.open(request_id="one")
    h.close(first, first.secret)
    (again,) = h.open(stream=2, request_id="one")
    assert isinstance(again, StepStreamError)
    assert again.reason == Reason.SESSION_CLOSED


def test_request_ids_are_forgotten_in_time() -> None:
    """Like the reasons of sessions' ends."""
    h = Harness(tombstone_seconds=10)
    (first,) = h.open(request_id="one")
    h.clock.advance(11)
    (again,) = h.open(stream=2, request_id="one")
    assert again.id != first.id


def test_a_request_id_stands_for_one_request() -> None:
    """Another number of sessions under the same one is refused."""
    h = Harness()
    h.open(2, request_id="one")
    error: object = h.open(3, stream=2, request_id="one")
    assert isinstance(error, StepStreamError)
    assert (error.reason, error.field) == (Reason.INVALID_ARGUMENT, "request_id")


def others_requests(h: Harness) -> list[str]:
    """Opens, forks and imports something under request ids, and returns these. All that is of it is called so."""
    theirs = h.ask(Open(NO_STREAM, h.request(), ["theirs-1"], request_id="opening"))[0]
    h.ask(Open(NO_STREAM, h.request(), ["theirs-2", "theirs-3"], request_id="two"))
    snapshot = h.export(theirs)
    h.ask(Fork(h.request(), theirs.id, b"", NO_SEQ, ["theirs-4"], "forking"))
    h.load(h.ear.replies[snapshot], "theirs-5", request_id="importing")
    return ["opening", "two", "forking", "importing"]


def test_a_guessed_request_id_tells_nothing_of_the_request_that_has_it() -> None:
    """Whatever is asked for under it, in as many sessions, or of the same one without its secret."""
    h = Harness()
    ids = others_requests(h)
    (mine,) = h.open()
    snapshot = h.export(mine)
    h.turn()
    for request_id in ids:
        given = (mine.id, mine.secret, NO_SEQ)
        for command in (
            Open(NO_STREAM, h.request(), ["mine-1"], request_id=request_id),
            Open(NO_STREAM, h.request(), ["mine-1", "mine-2"], request_id=request_id),
            Fork(h.request(), *given, ["mine-1"], request_id),
            Fork(h.request(), "theirs-1", b"guessed", NO_SEQ, ["theirs-4"], request_id),
            Import(h.request(), h.ear.replies[snapshot], "mine-1", request_id),
        ):
            check_told_nothing(asked(h, command), request_id)


def asked(h: Harness, command: Any) -> Any:
    """Submits a command that has been given its number, and returns the reply."""
    h.door.submit(command)
    h.turn()
    return h.ear.replies[command.request]


def check_told_nothing(error: Any, request_id: str) -> None:
    """Checks that a caller heard no more than that the request id is taken."""
    assert isinstance(error, StepStreamError)
    assert (error.reason, error.field) == (Reason.INVALID_ARGUMENT, "request_id")
    assert error.message == (
        f"request_id: expected one that stands for this request or for none yet, got {request_id!r} of another one"
    )


@pytest.mark.parametrize("difference", ["idle_ttl", "fork_at_seq", "export_at_seq", "close", "snapshot"])
def test_a_repeat_is_the_same_in_all_that_was_asked_for(difference: str) -> None:
    """The very same request is answered as before; one that differs in a single field is told nothing, and makes nothing."""
    h = Harness()
    a, b = h.open(2)
    h.send([a, b], [0, 0], [[1.0], [2.0]])
    h.settle()
    snapshot = snapshots.decode(snapshots.encode(asked(h, Export(h.request(), b.id, b.secret, NO_SEQ, False, 1 << 20))))
    heavier = dataclasses.replace(snapshot, states={name: values + 1 for name, values in snapshot.states.items()})
    export = Export(h.request(), a.id, a.secret, NO_SEQ, True, 1 << 20, "r")
    requests: dict[str, tuple[Any, dict[str, Any]]] = {
        "idle_ttl": (Open(NO_STREAM, h.request(), ["new"], idle_ttl=5.0, request_id="r"), {"idle_ttl": 6.0}),
        "fork_at_seq": (Fork(h.request(), a.id, a.secret, NO_SEQ, ["new"], "r"), {"at_seq": 1}),
        "export_at_seq": (export, {"at_seq": 1}),
        "close": (export, {"close": False}),
        "snapshot": (Import(h.request(), snapshot, "new", "r"), {"snapshot": snapshots.decode(snapshots.encode(heavier))}),
    }
    command, changes = requests[difference]
    first = asked(h, command)
    assert not isinstance(first, StepStreamError)
    sessions = h.engine.stats().sessions
    assert asked(h, dataclasses.replace(command, request=h.request())) == first
    check_told_nothing(asked(h, dataclasses.replace(command, request=h.request(), **changes)), "r")
    assert h.engine.stats().sessions == sessions


def test_a_repeat_does_not_name_the_session_that_has_ended() -> None:
    """Its id may be one that the server has made for somebody else, who has closed it."""
    h = Harness()
    (theirs,) = h.open(request_id="guessed")
    h.close(theirs, theirs.secret)
    error: object = h.open(stream=2, request_id="guessed")[0]
    assert isinstance(error, StepStreamError)
    assert error.reason == Reason.SESSION_CLOSED
    assert theirs.id not in error.message


def test_sessions_are_listed_in_pages() -> None:
    """Each open one once, however many come and go between pages."""
    h = Harness()
    opened = h.open(5)
    h.close(opened[1], opened[1].secret)
    seen: list[str] = []
    start: int | str | None = 0
    while start is not None:
        page = h.ask(List(h.request(), start, 2))
        assert isinstance(page, Page)
        seen += [info.id for info in page.sessions]
        start = page.next
        if len(seen) == 2:
            h.close(opened[4], opened[4].secret)
    assert seen == [opened[0].id, opened[2].id, opened[3].id]


def test_a_row_refused_by_the_door_keeps_its_place() -> None:
    """Its refusal comes behind the answers to what was sent before, and says what the door said."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0, 2.0]])
    h.refuse(a, 2, 3, "inputs[0]: expected {12} bytes, got 5")
    h.send([a], [5], [[1.0]])
    outcomes = h.settle()
    assert outcomes == [
        Answer(1, 0, 0, 2, (1.0, 3.0)),
        Refusal(1, 0, 2, 3, Reason.INVALID_ARGUMENT, 2),
        Refusal(1, 0, 5, 1, Reason.SEQUENCE_MISMATCH, 2),
    ]
    assert h.ear.messages[-2] == "inputs[0]: expected {12} bytes, got 5"
    assert h.reports.failures[Reason.INVALID_ARGUMENT] == 3


def test_an_acknowledgement_does_not_overtake_a_repeat() -> None:
    """Messages take effect in their order: the repeat is answered, then its answer may go."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.settle()
    h.send([a], [0], [[9.0]])
    h.acknowledge(a, 1)
    h.send([a], [0], [[9.0]])
    assert h.settle() == [Answer(1, 0, 0, 1, (1.0,)), Refusal(1, 0, 0, 1, Reason.ANSWER_DISCARDED, 1)]
    assert h.get(a.id).acked == 1
    assert h.engine.books.cache.bytes_used == 0


def test_an_acknowledgement_does_not_overtake_a_repeat_behind_a_call_without_a_number() -> None:
    """The call's step acknowledges itself when it is applied; the answer that the repeat waits for is there all the same."""
    h = Harness()
    (a,) = h.open()
    h.send([a], [0], [[1.0]])
    h.settle()
    h.call(a, NO_SEQ, [1.0], stream=50, secret=a.secret)
    h.acknowledge(a, 0)  # of nothing: the block, which is of another stream, does not overtake the call
    h.send([a], [0], [[9.0]])
    h.acknowledge(a, 1)
    assert h.settle() == [Answer(50, 0, 1, 1, (2.0,)), Answer(1, 0, 0, 1, (1.0,))]
    assert h.get(a.id).acked == 2
    assert h.engine.books.cache.bytes_used == 0


def test_a_thousand_sessions_are_opened_by_one_command() -> None:
    """Ids asked for and made ids mix; one that is asked for twice is opened once."""
    h = Harness(backend=FakeBackend(slots=1000))
    opened = h.open(1000)
    assert len({one.id for one in opened}) == len({one.secret for one in opened}) == 1000
    assert sorted(one.session for one in opened) == list(range(1000))


def test_a_thousand_rows_of_one_block_are_admitted_as_one() -> None:
    """The first block that arrives may be as large, and any row of it may be invalid."""
    h = Harness(backend=FakeBackend(slots=1000))
    opened = h.open(1000)
    h.send(opened, [0] * 1000, [[1.0]] * 1000)
    assert h.turn() == [Answer(1, tag, 0, 1, (1.0,)) for tag in range(1000)]
    assert h.backend.launches == [(1000, 1)]


def test_a_repeat_does_not_narrow_the_window() -> None:
    """What is acknowledged behind a repeat makes room at once, in the same turn."""
    h = Harness(window_steps=4)
    (a,) = h.open()
    h.send([a], [0], [[1.0, 1.0, 1.0, 1.0]])
    h.settle()
    h.send([a], [0], [[9.0, 9.0, 9.0, 9.0]])
    h.send([a], [4], [[1.0, 1.0, 1.0, 1.0]], acked=[4])
    assert h.settle() == [Answer(1, 0, 0, 4, (1.0, 2.0, 3.0, 4.0)), Answer(1, 0, 4, 4, (5.0, 6.0, 7.0, 8.0))]


def test_steps_sent_ahead_are_admitted_as_one_by_one() -> None:
    """Thousands in a turn, of several sessions; one that does not fit changes nothing for those before it."""
    h = Harness(window_steps=100)
    a, b = h.open(2)
    for seq in range(60):
        h.send([a], [seq], [[1.0]])
        h.send([b], [2 * seq], [[1.0, 1.0]], handles=[1])
    outcomes = h.settle()
    answered = {
        handle: sum(each.length for each in outcomes if each.handle == handle and isinstance(each, Answer)) for handle in (0, 1)
    }
    assert answered == {0: 60, 1: 100}
    refused = [each for each in outcomes if isinstance(each, Refusal)]
    assert refused[0] == Refusal(1, 1, 100, 2, Reason.WINDOW_FULL, 100)
    assert {each.reason for each in refused[1:]} == {Reason.SEQUENCE_MISMATCH}
    assert sum(each.length for each in refused) == 20


def test_refused_rows_take_no_room_from_others() -> None:
    """What cannot be admitted anyway does not fill the queue."""
    h = Harness(max_pending_steps=100, window_steps=1000)
    a, b, c = h.open(3)
    h.send([a], [7], [[1.0] * 90])
    h.send([b], [0], [[1.0] * 200], handles=[1])
    h.send([c], [0], [[1.0] * 90], handles=[2])
    reasons = {each.handle: each.reason for each in h.settle() if isinstance(each, Refusal)}
    assert reasons == {0: Reason.SEQUENCE_MISMATCH, 1: Reason.QUEUE_FULL}


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_numbers_that_are_not_finite_are_refused_row_by_row(value: float) -> None:
    """Alone in their block, or beside rows that are answered."""
    h = Harness()
    a, b = h.open(2)
    h.send([a], [0], [[value]])
    assert h.settle() == [Refusal(1, 0, 0, 1, Reason.NON_FINITE_INPUT, 0)]
    h.send([a, b], [0, 0], [[1.0, value], [1.0]])
    assert h.settle() == [Answer(1, 1, 0, 1, (1.0,)), Refusal(1, 0, 0, 2, Reason.NON_FINITE_INPUT, 0)]
    assert not h.get(a.id).quarantined


def test_every_number_of_a_step_must_be_finite() -> None:
    """Models may take several at once: the last one of the last step counts as the first one of the first."""
    h = Wide()
    opened = h.open(3)
    good, bad, worse = [1.0, 2.0, 3.0], [1.0, 2.0, float("nan")], [float("inf"), 2.0, 3.0]
    values: Any = [[good, bad], [good, good], [worse, good]]
    h.send(opened, [0] * 3, values)
    refused = {each.handle: each.reason for each in h.settle() if isinstance(each, Refusal)}
    assert refused == {0: Reason.NON_FINITE_INPUT, 2: Reason.NON_FINITE_INPUT}
    assert [h.get(each.id).next_seq for each in opened] == [0, 2, 0]


def test_ids_out_of_range_are_refused_row_by_row() -> None:
    """Below zero or at the limit, anywhere in a row; its neighbours in the block are answered."""
    h = Rolling()
    limit = h.spec.inputs[0].limit
    sessions = h.open(4)
    h.send(sessions, [0] * 4, [[0, limit - 1], [0, limit], [-1, 0], [limit - 1]])
    reasons = {each.handle: each.reason for each in h.settle() if isinstance(each, Refusal)}
    assert reasons == {1: Reason.INPUT_OUT_OF_RANGE, 2: Reason.INPUT_OUT_OF_RANGE}
    assert [h.get(each.id).next_seq for each in sessions] == [2, 0, 0, 1]
