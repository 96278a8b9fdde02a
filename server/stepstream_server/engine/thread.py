"""The engine's clockwork: one thread that takes commands from the inbox and turns, and sleeps when there is nothing to do."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import Command
from stepstream_server.engine.turnstile import Turnstile
from stepstream_server.errors import Reason, ServerFault

# Commands that one turn takes in at most, so that a flood cannot keep the turn from running: enough for every stream of a
# busy server to be in each batch, and about 50 ms if each is of the costliest kind.
_COMMANDS_PER_TURN = 512
# Of these, commands of one stream: more than arrive of one in the half millisecond of a turn, and 3 ms of the costliest kind.
_COMMANDS_PER_STREAM = 16
# Rows of momentary callers: as many as the largest batch has. Each costs about 10 us, or 0.15 ms if it begins the very
# sequence that the row before has begun.
_CALLERS_ROWS = 1024


class EngineThread:
    """Runs an engine until `stop`, or until it crashes."""

    def __init__(self, engine: Engine, on_crash: Callable[[BaseException], None]) -> None:
        self._engine = engine
        self._on_crash = on_crash
        self._turnstile = Turnstile(_COMMANDS_PER_STREAM, _CALLERS_ROWS)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"engine-{engine.spec.name}", daemon=True)

    def start(self) -> None:
        """Begins to turn."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the turn that it is in, and waits for it."""
        self._stopping.set()
        self._engine.inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._engine.turn(self._commands())
        except BaseException as crash:  # whatever it was: the waiting callers must hear of it before the thread dies
            try:
                self._engine.fail(self._over("failed"))
            finally:
                self._on_crash(crash)
        else:
            self._engine.fail(self._over("stopped"))

    def _over(self, how: str) -> ServerFault:
        return ServerFault(Reason.ENGINE_FAILED, f"the engine of model {self._engine.spec.name!r} has {how}")

    def _commands(self) -> list[tuple[int, Command]]:
        """What has arrived; waits for it only if the engine has nothing else to do."""
        clock, turnstile = self._engine.clock, self._turnstile
        if not (self._engine.busy or turnstile) and self._receive(self._engine.next_deadline) and self._engine.max_wait:
            until = clock() + self._engine.max_wait
            while len(turnstile) < _COMMANDS_PER_TURN and self._receive(until):
                pass
        while self._receive(0.0):
            pass
        return turnstile.take(_COMMANDS_PER_TURN)

    def _receive(self, until: float) -> bool:
        """Takes one item from the inbox, waiting no longer than until (monotonic seconds). False if nothing came."""
        seconds = until - self._engine.clock()
        try:
            if seconds <= 0:
                item = self._engine.inbox.get_nowait()
            else:
                item = self._engine.inbox.get(timeout=min(seconds, threading.TIMEOUT_MAX))
        except queue.Empty:
            return False
        if item is not None:  # None only wakes the thread
            self._turnstile.add(*item)
        return True
