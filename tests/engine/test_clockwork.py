"""An engine that the event loop and a thread turn by turns: both are stepped by hand through their interleavings."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream_server.engine.clockwork import Arbiter, Clockwork, Owner
from stepstream_server.engine.durable import writing
from stepstream_server.engine.engine import Turned
from stepstream_server.engine.ports import Acknowledge, CallersLeft, Get, Open, Opened, StreamEnded
from stepstream_server.errors import ServerFault
from support.backend import FakeBackend
from support.durable import Durable
from support.engine import Answer, Harness

SESSIONS = 3
CRASH = RuntimeError("a broken launch")


@pytest.fixture(autouse=True)
def depth() -> None:
    """Once for each test: an engine whose backend has several launches under way is never turned by a loop."""


class FakeTimer:
    """A callback that a test brings about, unless it was cancelled."""

    def __init__(self, at: float, callback: Callable[[], object]) -> None:
        self.at, self.callback, self.cancelled = at, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """An event loop whose callbacks a test calls."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.ready: deque[Callable[[], object]] = deque()
        self.timers: list[FakeTimer] = []

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> None:
        self.ready.append(lambda: callback(*arguments))

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> FakeTimer:
        timer = FakeTimer(self._clock() + delay, lambda: callback(*arguments))
        self.timers.append(timer)
        return timer

    def step(self) -> bool:
        """Calls the next callback, or that of a timer which is due. Returns whether there was one."""
        self.timers = [timer for timer in self.timers if not timer.cancelled]
        due = [timer for timer in self.timers if timer.at <= self._clock()]
        if due:
            self.timers.remove(due[0])
            self.ready.append(due[0].callback)
        if not self.ready:
            return False
        self.ready.popleft()()
        return True


class HandThread:
    """The clockwork's thread, which goes on when a test says so: what `_run` does, wait by wait and turn by turn."""

    def __init__(self, clockwork: Clockwork) -> None:
        self._clockwork = clockwork
        self._awake = False
        self.ended = False

    def step(self) -> bool:
        """Wakes, turns once, or ends. Returns whether it could do any of it."""
        clockwork = self._clockwork
        if self.ended or not (self._awake or clockwork._handed.acquire(blocking=False)):
            return False
        self._awake = True
        if clockwork._stopping.is_set():
            self.ended = True
            clockwork._turn_until_stopped = lambda: None  # type: ignore[method-assign]  # it has
            clockwork._run()
            return True
        try:
            self._awake = clockwork.turn_on_thread()
        except BaseException as crash:
            self.ended = True
            clockwork._crash(crash)
        return True


class Scene(Harness):
    """An engine whose clockwork is stepped by hand, with sessions that a stream holds."""

    def __init__(self, **settings: float) -> None:
        super().__init__(FakeBackend(depth=1), **settings)
        self.loop = FakeLoop(self.clock)
        self.crashes: list[BaseException] = []
        self.engine.warm_up()
        self.sessions = self.open(SESSIONS)
        self.clockwork = Clockwork(self.engine, self.loop, Arbiter(self.loop, self.clock), self.crashes.append)
        self.thread = HandThread(self.clockwork)
        self.sent = [0] * SESSIONS
        self.turned_by: list[Owner] = []
        self._turning = False
        self._turn = self.engine.turn
        self.engine.turn = self._watch  # type: ignore[method-assign]

    def _watch(self, envelopes: Any = (), until: float = -math.inf) -> Turned:
        """No turn may begin in the middle of another."""
        assert not self._turning
        self._turning = True
        try:
            self.turned_by.append(self.clockwork._owner)
            assert self.clockwork._owner is not Owner.IDLE
            return self._turn(envelopes, until)
        finally:
            self._turning = False

    def step_session(self, number: int) -> None:
        """Sends a session's next step."""
        self.send([self.sessions[number]], [self.sent[number]], [[1.0]], handles=[number])
        self.sent[number] += 1

    def go_on(self) -> None:
        """Loop and thread do all that they can."""
        while self.loop.step() or self.thread.step():
            pass

    def answered(self) -> list[Answer]:
        """All that was told so far; nothing may have been refused."""
        assert all(isinstance(each, Answer) for each in self.ear.outcomes)
        return [each for each in self.ear.outcomes if isinstance(each, Answer)]

    def check_answers(self) -> None:
        """Each step was answered once, in order, with its sum."""
        told: dict[int, list[tuple[int, float]]] = {number: [] for number in range(SESSIONS)}
        for each in self.answered():
            told[each.handle] += [(each.first + place, value) for place, value in enumerate(each.sums)]
        for number, sent in enumerate(self.sent):
            assert told[number] == [(step, step + 1.0) for step in range(sent)]


Action = Callable[[Scene], object]


def ask_something(scene: Scene) -> None:
    """A command that is not plain."""
    scene.door.submit(Get(scene.request(), scene.sessions[0].id))


ACTIONS: dict[str, Action] = {
    "step 0": lambda scene: scene.step_session(0),
    "step 1": lambda scene: scene.step_session(1),
    "step 2": lambda scene: scene.step_session(2),
    "ask": ask_something,
    "leave": lambda scene: scene.door.submit(CallersLeft([99])),
    "loop": lambda scene: scene.loop.step(),
    "thread": lambda scene: scene.thread.step(),
    "both": lambda scene: scene.go_on(),
}
stories = st.lists(st.sampled_from(sorted(ACTIONS)), max_size=40)


@given(stories)
def test_whoever_turns_each_step_is_answered_once_and_in_order(story: list[str]) -> None:
    """When all is done nobody owns the engine, and nothing waits to be called back."""
    scene = Scene()
    for action in story:
        ACTIONS[action](scene)
    scene.go_on()
    scene.check_answers()
    assert scene.clockwork._owner is Owner.IDLE
    assert not scene.loop.ready
    turns = len(scene.turned_by)
    scene.go_on()
    assert len(scene.turned_by) == turns  # an idle server makes no turns


@given(stories, stories)
def test_stopping_at_any_moment_ends_the_thread_and_tells_everybody(before: list[str], after: list[str]) -> None:
    """What had been answered stays answered once; then nothing more is accepted."""
    scene = Scene()
    for action in before:
        ACTIONS[action](scene)
    scene.clockwork.stop()
    for action in after:
        if action in ("loop", "thread", "both"):
            ACTIONS[action](scene)
    scene.go_on()
    assert scene.thread.ended
    assert scene.crashes == []
    assert isinstance(scene.ear.failure, ServerFault)
    assert "has stopped" in scene.ear.failure.message
    with pytest.raises(ServerFault, match="has stopped"):
        scene.step_session(0)


@given(stories, stories)
def test_a_crash_under_any_owner_is_told_once(before: list[str], after: list[str]) -> None:
    """Front doors hear that the engine has failed, whoever runs the process hears why, and the thread ends."""
    scene = Scene()

    def crash() -> None:
        raise CRASH

    for action in before:
        ACTIONS[action](scene)
    scene.go_on()
    scene.backend.before_launch = crash
    scene.step_session(0)
    for action in after:
        if action in ("loop", "thread", "both"):
            ACTIONS[action](scene)
    scene.go_on()
    assert scene.crashes == [CRASH]
    assert isinstance(scene.ear.failure, ServerFault)
    assert "has failed" in scene.ear.failure.message
    assert scene.thread.ended
    scene.clockwork.stop()


def test_plain_steps_are_turned_by_the_loop() -> None:
    """In a callback, never inside the submission itself."""
    scene = Scene()
    scene.step_session(0)
    assert scene.turned_by == []
    scene.go_on()
    assert scene.turned_by == [Owner.LOOP]
    scene.check_answers()


def test_a_submission_from_within_a_delivery_begins_no_turn_in_the_turn() -> None:
    """Listeners submit when they hear: it is turned afterwards."""
    scene = Scene()

    def once() -> None:
        scene.ear.before_hearing = lambda: None
        scene.step_session(1)

    scene.ear.before_hearing = once
    scene.step_session(0)
    scene.go_on()
    scene.check_answers()
    assert scene.turned_by == [Owner.LOOP] * 2


@pytest.mark.parametrize("action", ["ask", "leave"])
def test_what_is_not_plain_is_the_threads(action: str) -> None:
    """The thread keeps the engine only until it has nothing left to do."""
    scene = Scene()
    ACTIONS[action](scene)
    scene.step_session(0)
    scene.go_on()
    assert set(scene.turned_by) == {Owner.THREAD}
    scene.step_session(0)
    scene.go_on()
    assert scene.turned_by[-1] is Owner.LOOP
    scene.check_answers()


def test_acknowledgements_without_end_are_the_threads() -> None:
    """They are plain, and each costs as much as several steps."""
    scene = Scene()
    nobody = np.zeros(0, np.int64)
    for _ in range(40):
        scene.door.submit(Acknowledge(1, nobody, nobody, nobody.astype(np.uint32), nobody))
    scene.go_on()
    assert set(scene.turned_by) == {Owner.THREAD}


@pytest.mark.parametrize(("sessions", "owner"), [(1, Owner.LOOP), (30, Owner.LOOP), (40, Owner.THREAD)])
def test_streams_with_few_sessions_come_and_go_on_the_loop(sessions: int, owner: Owner) -> None:
    """Opening many takes longer than the loop has."""
    scene = Scene()
    handles = np.arange(sessions, dtype=np.uint32)
    scene.door.submit(Open(9, scene.request(), [""] * sessions, handles))
    scene.go_on()
    assert set(scene.turned_by) == {owner}
    scene.turned_by.clear()
    scene.door.submit(StreamEnded(9))
    scene.step_session(0)
    scene.go_on()
    assert scene.turned_by[0] is Owner.LOOP
    scene.check_answers()


def test_the_end_of_a_stream_with_many_sessions_is_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them has to be let go."""
    scene = Scene()
    assert [scene.engine.held_by(0, stream) for stream in (1, 9)] == [SESSIONS, 0]
    monkeypatch.setattr(scene.engine, "held_by", lambda door, stream: 1000)
    scene.door.submit(StreamEnded(1))
    scene.go_on()
    assert set(scene.turned_by) == {Owner.THREAD}


def test_chunks_are_the_threads() -> None:
    """They are computed beside what the loop does meanwhile."""
    scene = Scene()
    scene.send([scene.sessions[0]], [0], [[1.0, 1.0]], handles=[0])
    scene.go_on()
    assert set(scene.turned_by) == {Owner.THREAD}


@pytest.mark.parametrize(("seconds", "owner"), [(0.0009, Owner.LOOP), (0.0011, Owner.THREAD)])
def test_a_launch_that_takes_long_is_the_threads(seconds: float, owner: Owner) -> None:
    """By what launches of about as many rows have taken, their settlement included."""
    scene = Scene()
    scene.backend.before_collect = lambda: scene.clock.advance(seconds)
    for _ in range(60):  # until the measured time is near the true one
        scene.step_session(0)
        scene.go_on()
    scene.step_session(0)
    scene.go_on()
    assert scene.turned_by[-1] is owner


def test_the_thread_gives_a_busy_engine_back_after_plain_turns() -> None:
    """What made it take over has passed, though there is always something to do."""
    scene = Scene()
    ask_something(scene)
    while scene.loop.step():
        pass
    scene.ear.before_hearing = lambda: scene.step_session(0)
    for _ in range(60):
        scene.thread.step()
    assert scene.clockwork._owner is Owner.LOOP
    assert scene.turned_by == [Owner.THREAD] * 21  # the first was not plain
    scene.ear.before_hearing = lambda: None
    scene.go_on()
    scene.check_answers()


def test_a_timer_ends_sessions_of_an_idle_engine() -> None:
    """It is rounded up to whole milliseconds, so that a turn finds them expired when it comes."""
    scene = Scene(idle_ttl_seconds=5.0004)
    ask_something(scene)
    scene.go_on()
    (timer,) = scene.loop.timers
    assert timer.at >= scene.engine.next_deadline
    scene.clock.advance(timer.at - scene.clock())
    scene.go_on()
    assert scene.engine.stats().sessions == 0
    assert len(scene.ear.detached) == SESSIONS
    assert scene.loop.timers == []


class DurableScene(Scene, Durable):
    """The sessions are durable."""

    def open(self, count: int = 1, **_options: Any) -> list[Opened]:
        return self.opened(*[""] * count)

    def __init__(self) -> None:
        super().__init__()
        self.store.inbox = self.clockwork

    def go_on_in_time(self) -> None:
        """The next timer is due."""
        self.clock.advance(min(timer.at for timer in self.loop.timers if not timer.cancelled) - self.clock())
        self.go_on()


def test_few_sessions_are_written_on_the_loop() -> None:
    """When they are due, though nobody says anything; and there the store is heard."""
    scene = DurableScene()
    for _ in range(3):
        for number in range(SESSIONS):
            scene.step_session(number)
        scene.go_on()
        scene.go_on_in_time()
        assert len(scene.store.tasks) == 1
        scene.step_session(0)
        scene.go_on()
        scene.store.step()
        scene.go_on()
    assert set(scene.turned_by) == {Owner.LOOP}
    assert scene.ear.durable[1, 1] == 3
    scene.check_answers()


def test_many_sessions_are_written_on_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """To gather them takes longer than the loop has. Their steps are the loop's until then."""
    monkeypatch.setattr(writing, "_LIGHT_ROWS", SESSIONS - 1)
    scene = DurableScene()
    for number in range(SESSIONS):
        scene.step_session(number)
        scene.go_on()
    assert set(scene.turned_by) == {Owner.LOOP}
    scene.go_on_in_time()
    assert len(scene.store.tasks) == 1
    assert scene.turned_by[-1] is Owner.THREAD
    scene.check_answers()


def test_engines_share_a_millisecond_of_an_iteration() -> None:
    """Round robin: one whose turn takes longer leaves the others for the next iteration, and comes last then."""
    first, second = Scene(), Scene()
    arbiter = Arbiter(first.loop, first.clock)
    order: list[str] = []

    def take_long(name: str) -> None:
        order.append(name)
        first.clock.advance(0.002)

    for name, scene in (("first", first), ("second", second)):
        scene.clockwork._arbiter = arbiter
        scene.ear.before_hearing = partial(take_long, name)
    for _ in range(2):
        first.step_session(0)
        second.step_session(0)
    first.loop.step()
    assert order == ["first"]
    first.step_session(1)
    while first.loop.step():
        pass
    assert order == ["first", "second", "first"]


def test_one_that_asks_twice_is_one_owner() -> None:
    """Envelopes that come before the loop has turned are taken in together."""
    scene = Scene()
    for number in range(SESSIONS):
        scene.step_session(number)
    assert len(scene.loop.ready) == 1
    scene.go_on()
    assert len(scene.turned_by) == 1
