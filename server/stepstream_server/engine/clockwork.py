"""A driver that turns an engine where it costs least: on the event loop while turns are plain and short, else on a thread.

A lone step's way to a thread and back is a seventh of its time, and beside a busy event loop the thread waits for the
interpreter. But the loop must not be held up. So it turns the engine itself only where a turn will be over within a millisecond,
also where streams with few sessions come and go: else whoever opens them without end would keep the engine on the thread, and
everybody's steps waiting for the interpreter. Everything else goes to the thread, which keeps the engine until it has nothing
left to do, or has had nothing but plain turns.
"""

from __future__ import annotations

import enum
import math
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from stepstream_server.engine.engine import Clock, Engine
from stepstream_server.engine.ports import Acknowledge, Block, Call, Envelope, Open, StoreDone, StreamEnded
from stepstream_server.engine.thread import EngineThread, rows_of

_INLINE_SECONDS = 0.001  # that turns may take of one iteration of the loop: what a health check waits for
_INLINE_ROWS = 256  # of a turn on the loop, as `rows_of` counts: taking them in takes a third of a millisecond
_PLAIN_TURNS = 20  # in a row after which the thread gives the engine back: what made it take over has passed
_TIMER_SECONDS = 0.001  # to which timers are rounded up: those of uvloop are whole milliseconds, and must not come too early


class Timer(Protocol):
    """A callback that will come."""

    def cancel(self) -> None:
        """It will not."""


class Loop(Protocol):
    """An event loop, as far as drivers of engines use it."""

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> Any:
        """Calls back in the next iteration. On the loop's thread."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *arguments: Any) -> Any:
        """Calls back in the next iteration. From any thread. Raises RuntimeError once the loop is closed."""

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: Any) -> Timer:
        """Calls back in so many seconds. On the loop's thread."""


class Owner(enum.Enum):
    """Who turns an engine. Changes only between two turns, and under the lock."""

    IDLE = enum.auto()  # nobody: there is nothing to do
    LOOP = enum.auto()  # the event loop, which has been asked for a turn
    THREAD = enum.auto()  # the thread, until it gives the engine back


class Arbiter:
    """Deals out the time of one event loop among the engines that it turns: round robin, and no turn begins when others have
    taken a millisecond of an iteration."""

    def __init__(self, loop: Loop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._waiting: deque[Clockwork] = deque()
        self._due = False  # whether the loop will call back

    def ask(self, clockwork: Clockwork) -> None:
        """An engine wants a turn. On the loop's thread. The turn begins later: who asks may be in the middle of something."""
        self._waiting.append(clockwork)
        self._call_back()

    def _call_back(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._deal)

    def _deal(self) -> None:
        self._due = False
        until = self._clock() + _INLINE_SECONDS
        for _ in range(len(self._waiting)):  # who asks again meanwhile waits for the next iteration
            self._waiting.popleft().turn(until)
            if self._clock() >= until:
                break
        if self._waiting:
            self._call_back()


class Clockwork(EngineThread):
    """Drives an engine whose front door is in this process; also its inbox. All but `stop` is for the loop's thread, or for its
    own."""

    def __init__(self, engine: Engine, loop: Loop, arbiter: Arbiter, on_crash: Callable[[BaseException], None]) -> None:
        super().__init__(engine, on_crash)
        self._loop = loop
        self._arbiter = arbiter
        self._envelopes: deque[Envelope] = deque()
        self._lock = threading.Lock()
        self._owner = Owner.IDLE
        self._handed = threading.Semaphore(0)  # to the thread: the engine, or the news that it is to stop
        self._plain = 0  # turns of the thread in a row
        self._timer: Timer | None = None
        self._timer_at = math.inf  # monotonic seconds
        engine.inbox = self

    # Inbox -----------------------------------------------------------------------------------------------------------

    def put(self, item: Envelope | None) -> None:
        """Adds an envelope, and has somebody take it. None does nothing: nobody waits here."""
        if item is None:
            return
        with self._lock:
            self._envelopes.append(item)
            if self._owner is not Owner.IDLE:
                return
            self._owner = Owner.LOOP
        self._arbiter.ask(self)

    def get(self, *, timeout: float) -> Envelope | None:
        """Takes the next envelope as `get_nowait` does: who finds none gives the engine back. Raises queue.Empty."""
        return self.get_nowait()

    def get_nowait(self) -> Envelope | None:
        """Takes the next envelope. Raises queue.Empty."""
        try:
            return self._envelopes.popleft()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        """How many envelopes there are."""
        return len(self._envelopes)

    # The loop --------------------------------------------------------------------------------------------------------

    def turn(self, until: float) -> None:
        """Turns the engine once on the loop, as the arbiter says, or hands it to the thread. until: monotonic seconds after which
        no launch begins, except the first."""
        try:
            self._turn(until)
        except BaseException as crash:
            try:
                self._crash(crash)
            finally:
                self._handed.release()

    def _turn(self, until: float) -> None:
        with self._lock:
            if self._stopping.is_set() or not self._fits():
                self._owner = Owner.THREAD
        if self._owner is Owner.THREAD:
            self._handed.release()
            return
        work_left = self._engine.turn([self._envelopes.popleft() for _ in range(len(self._envelopes))], until).work_left
        with self._lock:
            if not work_left and not self._envelopes:
                self._owner = Owner.IDLE
        if self._owner is Owner.LOOP:
            self._arbiter.ask(self)
        elif self._engine.next_deadline < self._timer_at:
            self._arm()

    def _fits(self) -> bool:
        """Tells whether the next turn is plain, and will be over within what the loop has for it."""
        (rows, steps), weight = self._engine.queued, 0
        for door, commands in self._envelopes:
            for command in commands:
                weight += rows_of(command)
                if isinstance(command, StreamEnded):
                    weight += self._engine.held_by(door, command.stream)
                if isinstance(command, Block | Call):
                    rows, steps = rows + len(command.rows), steps + len(command.inputs[0])
                elif not isinstance(command, Acknowledge | Open | StreamEnded | StoreDone):
                    return False
        if steps > rows or weight > _INLINE_ROWS or not self._engine.calm:  # chunks are computed beside the loop's own work
            return False
        return not rows or self._engine.expected_seconds(rows) <= _INLINE_SECONDS

    def _take_back(self, more: bool) -> None:
        """The thread has given the engine back. more: whether there is something to do."""
        if more:
            self._arbiter.ask(self)
        self._arm()

    def _arm(self) -> None:
        """Has the loop look after the engine when sessions may have expired."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, self._engine.next_deadline
        if self._timer_at < math.inf:
            delay = max(0.0, self._timer_at - self._engine.clock())
            self._timer = self._loop.call_later(math.ceil(delay / _TIMER_SECONDS) * _TIMER_SECONDS, self._expire)

    def _expire(self) -> None:
        self._timer, self._timer_at = None, math.inf
        with self._lock:
            if self._owner is not Owner.IDLE:  # whoever turns the engine sees to it, and arms the timer again
                return
            self._owner = Owner.LOOP
        self._arbiter.ask(self)

    # The thread ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ends the driver after the turn that is under way, and waits for it. From another thread than the loop's, which goes
        on meanwhile."""
        self._stopping.set()
        with self._lock:
            idle = self._owner is Owner.IDLE
            if idle:
                self._owner = Owner.THREAD
        if idle:
            self._handed.release()  # else it is the loop's to hand over, or the thread's already
        self._join()

    def _turn_until_stopped(self) -> None:
        owns = False
        while not (owns and self._stopping.is_set()):  # it ends only while the loop cannot be turning
            owns = self.turn_on_thread() if owns else self._handed.acquire()

    def turn_on_thread(self) -> bool:
        """Turns the engine once on the thread. Returns whether it keeps the engine."""
        turned = self._engine.turn(self._take_envelopes(work_left=True), self._engine.clock() + self._engine.turn_budget)
        self._plain = self._plain + 1 if turned.plain else 0
        with self._lock:
            more = turned.work_left or len(self._envelopes) > 0
            if self._stopping.is_set() or (more and (self._plain < _PLAIN_TURNS or not self._fits())):
                return True
            self._owner = Owner.LOOP if more else Owner.IDLE
        self._plain = 0
        try:
            self._loop.call_soon_threadsafe(self._take_back, more)
        except RuntimeError:  # the loop is closed: nobody is left to be answered, or to take the engine
            self._stopping.set()
            return True
        return False
