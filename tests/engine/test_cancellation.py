"""A caller goes away at every stage of a step: queued, cut, computing, settling. Batch-mates and books never notice."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from stepstream_server.engine.ports import NO_SEQ, Attach, Close, DoorLost, Opened
from stepstream_server.errors import CallerError, Reason
from support.engine import Answer, Ear, Harness, Refusal

STEPS = 12  # more than a first launch takes, so that a rest is queued while the beginning is computed
MATES = 3
ALONE, TOGETHER, ELSEWHERE, CALLING = 1, 2, 3, 4  # streams: the caller's, the mates', one that takes over, one call's

VICTIM = [1.0] * STEPS
VICTIM_SUMS = [float(step + 1) for step in range(STEPS)]
MATE_SUMS = [10.0 * (step + 1) for step in range(STEPS)]


@dataclass
class Scene:
    """A session whose caller will go away, and its batch-mates."""

    h: Harness = field(default_factory=Harness)

    def __post_init__(self) -> None:
        (self.victim,) = self.h.open(1, stream=ALONE)
        self.mates = self.h.open(MATES, stream=TOGETHER)

    def send(self) -> None:
        """Steps of everybody, for the same launches."""
        self.h.send([self.victim], [0], [VICTIM], stream=ALONE)
        self.send_mates()

    def send_mates(self) -> None:
        self.h.send(self.mates, [0] * MATES, [[10.0] * STEPS] * MATES, stream=TOGETHER)

    @property
    def cut(self) -> int:
        """Steps of the first launch."""
        return self.h.backend.launches[0][1]


def once(doing: Callable[[], None]) -> Callable[[], None]:
    """The first time only."""
    left = [doing]

    def do() -> None:
        if left:
            left.pop()()

    return do


def at_stage(stage: str, h: Harness, doing: Callable[[], None]) -> None:
    """Has something done when the steps that were sent are at that stage."""
    if stage == "queued":
        doing()
    elif stage == "cut":
        h.backend.before_launch = once(doing)
    elif stage == "computing":
        h.backend.before_collect = once(doing)
    else:
        h.ear.before_hearing = once(doing)


def sums(outcomes: list[Answer | Refusal], stream: int, handle: int) -> list[float]:
    """What a handle was answered, none of it refused, and each step once and in order."""
    mine = [each for each in outcomes if (each.stream, each.handle) == (stream, handle)]
    assert [each.first for each in mine] == list(itertools.accumulate([0, *(each.length for each in mine[:-1])]))[: len(mine)]
    assert all(isinstance(each, Answer) for each in mine)
    return [value for each in mine if isinstance(each, Answer) for value in each.sums]


def take_over(scene: Scene) -> None:
    """Another stream attaches the session."""
    victim, request = scene.victim, scene.h.request()
    handle, acked = np.array([0], np.uint32), np.array([0])
    scene.h.door.submit(Attach(ELSEWHERE, request, handle, [victim.id], [victim.secret], acked))


STAGES = ["queued", "cut", "computing", "settling"]
LEAVING: dict[str, Callable[[Scene], None]] = {
    "the stream ends": lambda scene: scene.h.end_stream(ALONE),
    "the session is detached": lambda scene: scene.h.detach(scene.victim, stream=ALONE),
    "another stream takes over": take_over,
}
CLOSING: dict[str, Callable[[Scene], None]] = {
    "closed by its stream": lambda scene: scene.h.detach(scene.victim, stream=ALONE, close=True),
    "closed by id": lambda scene: scene.h.door.submit(Close(scene.h.request(), scene.victim.id, scene.victim.secret)),
}


def check_nothing_leaks(scene: Scene, sessions: list[Opened], streams: int) -> None:
    """With everything acknowledged the engine holds what its open sessions need, and nothing else."""
    h = scene.h
    for handle, session in enumerate(sessions):
        h.attach(session, stream=9, handle=handle, acked=STEPS)
    h.settle()
    for handle in range(len(sessions)):
        h.detach(sessions[handle], stream=9, handle=handle)
    h.settle()
    stats = h.engine.stats()
    assert (stats.sessions, stats.streams, stats.pending_steps, h.engine.busy) == (len(sessions), streams, 0, False)
    assert len(h.backend.free) == h.backend.slots - len(sessions)
    assert h.engine.books.cache.bytes_used == 0


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING.keys())
@pytest.mark.parametrize("stage", STAGES)
def test_whoever_goes_leaves_the_others_and_finds_what_was_cut(stage: str, leave: Callable[[Scene], None]) -> None:
    """What was queued is dropped, what was cut settles and waits in the session for whoever attaches it next."""
    scene = Scene()
    scene.send()
    at_stage(stage, scene.h, lambda: leave(scene))
    outcomes = scene.h.settle()
    for handle in range(MATES):
        assert sums(outcomes, TOGETHER, handle) == MATE_SUMS
    applied = 0 if stage == "queued" else scene.cut
    told = sums(outcomes, ALONE, 0)
    assert told == VICTIM_SUMS[:applied]
    attached = scene.h.attach(scene.victim, stream=ELSEWHERE, handle=5)
    assert (attached.next_seq, attached.acked) == (applied, 0)
    assert sums(scene.h.settle(), ELSEWHERE, 5) == VICTIM_SUMS[:applied]
    scene.h.send([scene.victim], [0], [VICTIM], stream=ELSEWHERE, handles=[5])
    assert sums(scene.h.settle(), ELSEWHERE, 5) == VICTIM_SUMS
    check_nothing_leaks(scene, [scene.victim, *scene.mates], streams=0)


@pytest.mark.parametrize("close", CLOSING.values(), ids=CLOSING.keys())
@pytest.mark.parametrize("stage", STAGES)
def test_a_session_closed_under_its_steps_gives_its_slot_back(stage: str, close: Callable[[Scene], None]) -> None:
    """Its launch ends as any other, and then nothing of it is left."""
    scene = Scene()
    scene.send()
    at_stage(stage, scene.h, lambda: close(scene))
    outcomes = scene.h.settle()
    for handle in range(MATES):
        assert sums(outcomes, TOGETHER, handle) == MATE_SUMS
    assert sums(outcomes, ALONE, 0) == VICTIM_SUMS[: 0 if stage == "queued" else scene.cut]
    ended = scene.h.get(scene.victim.id)
    assert isinstance(ended, CallerError)
    assert ended.reason is Reason.SESSION_CLOSED
    check_nothing_leaks(scene, scene.mates, streams=0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_front_door_that_dies_takes_its_streams_with_it(stage: str) -> None:
    """Those of other doors go on; its sessions can be attached through another door."""
    scene = Scene()
    ear = Ear()
    other = scene.h.engine.connect(ear)
    scene.send()
    at_stage(stage, scene.h, lambda: scene.h.door.submit(DoorLost()))
    scene.h.settle()
    applied = 0 if stage == "queued" else scene.cut
    everybody = [scene.victim, *scene.mates]
    assert scene.h.engine.stats().streams == 0
    secrets, handles = [each.secret for each in everybody], np.arange(len(everybody), dtype=np.uint32)
    other.submit(Attach(7, 1, handles, [each.id for each in everybody], secrets, np.zeros(len(everybody), np.int64)))
    scene.h.settle()
    assert [each.next_seq for each in ear.replies[1]] == [applied] * len(everybody)
    assert sums(ear.outcomes, 7, 0) == VICTIM_SUMS[:applied]
    assert sums(ear.outcomes, 7, 1) == MATE_SUMS[:applied]
    check_nothing_leaks(scene, everybody, streams=0)


def test_a_front_door_that_dies_takes_its_callers_with_it() -> None:
    """Steps that they had queued are dropped, of every session; those of another door's caller are applied."""
    h = Harness()
    sessions = [h.open_as(name) for name in ("a", "b", "c")]
    other = h.engine.connect(Ear())
    h.call_many(["a", "a", "b"], [NO_SEQ] * 3, [[1.0]] * 3, stream=CALLING)
    h.door, mine = other, h.door
    h.call(sessions[2], NO_SEQ, [1.0], stream=CALLING)
    h.door = mine
    h.door.submit(DoorLost())
    assert h.settle() == []
    assert [h.get(each.id).next_seq for each in sessions] == [0, 0, 1]


@pytest.mark.parametrize("stage", STAGES)
def test_a_one_shot_call_that_is_given_up_can_be_made_again(stage: str) -> None:
    """With a seq the repeat finds the answer of what was cut, and runs what was not."""
    scene = Scene()
    h = scene.h
    h.end_stream(ALONE)
    h.settle()
    h.call(scene.victim, 0, VICTIM, stream=CALLING)
    scene.send_mates()
    at_stage(stage, h, lambda: h.hang_up(CALLING))
    outcomes = h.settle()
    for handle in range(MATES):
        assert sums(outcomes, TOGETHER, handle) == MATE_SUMS
    assert h.get(scene.victim.id).next_seq == (0 if stage == "queued" else scene.cut)
    h.call(scene.victim, 0, VICTIM, stream=CALLING + 1)
    assert sums(h.settle(), CALLING + 1, 0) == VICTIM_SUMS
    check_nothing_leaks(scene, [scene.victim, *scene.mates], streams=0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_deadline_stops_what_has_not_begun(stage: str) -> None:
    """The first launch that would begin too late does not, and its caller hears where the session stands."""
    scene = Scene()
    h = scene.h
    h.end_stream(ALONE)
    h.settle()
    h.call(scene.victim, 0, VICTIM, stream=CALLING, deadline=h.clock() + 1)
    scene.send_mates()
    at_stage(stage, h, lambda: h.clock.advance(2))
    outcomes = h.settle()
    for handle in range(MATES):
        assert sums(outcomes, TOGETHER, handle) == MATE_SUMS
    applied = 0 if stage == "queued" else scene.cut
    mine = [each for each in outcomes if each.stream == CALLING]
    assert mine[-1] == Refusal(CALLING, 0, applied, STEPS - applied, Reason.DEADLINE_EXCEEDED, applied)
    assert sums(mine[:-1], CALLING, 0) == VICTIM_SUMS[:applied]
    h.call(scene.victim, 0, VICTIM, stream=CALLING + 1)
    assert sums(h.settle(), CALLING + 1, 0) == VICTIM_SUMS
    check_nothing_leaks(scene, [scene.victim, *scene.mates], streams=0)


def test_a_dropped_repeat_holds_nothing_back() -> None:
    """Answers that were acknowledged while a repeat waited for them do not fill the window once the repeat is gone."""
    h = Harness(window_steps=6)
    (session,) = h.open(1, stream=ALONE, request_id="once")
    h.send([session], [0], [[1.0] * 5], stream=ALONE)
    h.settle()
    h.send([session], [5], [[1.0]], stream=ALONE)
    h.send([session], [0], [[1.0] * 5], stream=ALONE)
    h.acknowledge(session, 5, stream=ALONE)
    (again,) = h.open(1, stream=ELSEWHERE, request_id="once")
    assert (again.session, again.next_seq, again.acked) == (session.session, 5, 5)
    h.send([again], [5], [[1.0] * 6], stream=ELSEWHERE)
    (answer,) = [each for each in h.settle() if each.stream == ELSEWHERE]
    assert answer == Answer(ELSEWHERE, 0, 5, 6, (6.0, 7.0, 8.0, 9.0, 10.0, 11.0))
