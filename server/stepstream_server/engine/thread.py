"""A driver of the engine: one thread that takes commands from the inbox and turns, and sleeps when there is nothing to do."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import Acknowledge, Block, Call, Command, Envelope, Found, Open, StoreDone
from stepstream_server.errors import Reason, ServerFault

# What one turn takes in at most, so that a flood cannot keep the turn from running: as many rows of blocks as the largest batch
# has four times over, and about 50 ms of the costliest commands.
_ROWS_PER_TURN = 4096
_CALL_ROWS = 4  # rows of a block that a one-shot caller's row stands for: each costs about 10 us
_COMMAND_ROWS = 8  # rows of a block that any other command stands for
_OPENED_ROWS = 8  # rows of a block that a session which is to be opened stands for
_ACKNOWLEDGED = 16  # sessions of an acknowledgement that cost as much as a row of a block


class EngineThread:
    """Runs an engine until `stop`, or until it crashes."""

    def __init__(self, engine: Engine, on_crash: Callable[[BaseException], None]) -> None:
        self._engine = engine
        self._on_crash = on_crash
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"engine-{engine.spec.name}", daemon=True)

    def start(self) -> None:
        """Begins to turn."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the turn that it is in, and waits for it."""
        self._stopping.set()
        self._engine.inbox.put(None)
        self._join()

    def _join(self) -> None:
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._turn_until_stopped()
            if self._engine.failure is None:
                self._engine.land()
        except BaseException as crash:
            self._crash(crash)
        else:
            self._engine.fail(self._over("stopped"))

    def _turn_until_stopped(self) -> None:
        work_left = False
        while not self._stopping.is_set():
            envelopes = self._take_envelopes(work_left=work_left)
            work_left = self._engine.turn(envelopes, self._engine.clock() + self._engine.turn_budget).work_left

    def _crash(self, crash: BaseException) -> None:
        """The engine has raised: whatever it was, the waiting callers must hear of it before anything else happens."""
        self._stopping.set()
        try:
            self._engine.fail(self._over("failed"))
        finally:
            self._on_crash(crash)

    def _over(self, how: str) -> ServerFault:
        return ServerFault(Reason.ENGINE_FAILED, f"the engine of model {self._engine.spec.name!r} has {how}")

    def _take_envelopes(self, *, work_left: bool) -> list[Envelope]:
        """Takes what has arrived, in its order, as far as it fits into a turn; waits for it only if the engine has no work
        left."""
        envelopes: list[Envelope] = []
        rows = 0
        until = float("-inf") if work_left else self._engine.next_deadline
        while rows < _ROWS_PER_TURN and (envelope := self._receive(until)) is not None:
            if not envelopes:
                waits = self._engine.max_wait and not work_left
                until = self._engine.clock() + self._engine.max_wait if waits else float("-inf")
            envelopes.append(envelope)
            rows += sum(map(rows_of, envelope[1]))
        return envelopes

    def _receive(self, until: float) -> Envelope | None:
        """Takes an envelope from the inbox, waiting no longer than until (monotonic seconds). None if none came."""
        seconds = until - self._engine.clock()
        try:
            if seconds <= 0:
                return self._engine.inbox.get_nowait()
            return self._engine.inbox.get(timeout=min(seconds, threading.TIMEOUT_MAX))
        except queue.Empty:
            return None


def rows_of(command: Command) -> int:
    """Estimates what taking a command in costs, in rows of a block."""
    if isinstance(command, Block):
        return len(command.rows)
    if isinstance(command, Acknowledge):
        return _COMMAND_ROWS + len(command.handles) // _ACKNOWLEDGED
    if isinstance(command, Open):
        return _COMMAND_ROWS + _OPENED_ROWS * len(command.ids)
    if isinstance(command, StoreDone):
        return sum(_COMMAND_ROWS * len(each.sessions) if isinstance(each, Found) else _COMMAND_ROWS for each in command.outcomes)
    return _CALL_ROWS * len(command.ids) if isinstance(command, Call) else _COMMAND_ROWS
