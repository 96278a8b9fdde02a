"""The main process's own word with an engine, beside its front doors': limits of tenants, and questions of administrators."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import Command, Delivery
from stepstream_server.errors import StepStreamError


class Desk:
    """One engine's sink on the event loop. It holds no session and steps none, so that replies are all it is told."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        """Before the engine's first turn."""
        self.spec = engine.spec
        self._loop = loop
        self._door = engine.connect(self)
        self._numbers = itertools.count()
        self._questions: dict[int, asyncio.Future[Any]] = {}

    def submit(self, command: Command) -> None:
        """Says what has no reply. An engine that has ended hears nothing."""
        with suppress(StepStreamError):
            self._door.submit(command)

    async def ask(self, command: Callable[[int], Command]) -> Any:
        """Submits a command made for a request number and waits for its reply's value. Raises StepStreamError."""
        number = next(self._numbers)
        answer = self._questions[number] = self._loop.create_future()
        try:
            self._door.submit(command(number))
            value = await answer
        finally:
            del self._questions[number]
        if isinstance(value, StepStreamError):
            raise value
        return value

    def deliver(self, delivery: Delivery) -> None:
        """On whatever thread turns the engine."""
        if delivery.replies:
            self._soon({reply.request: reply.value for reply in delivery.replies})

    def fail(self, error: StepStreamError) -> None:
        """On whatever thread turns the engine."""
        self._soon(dict.fromkeys(self._questions.copy(), error))

    def _soon(self, values: dict[int, Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._answer, values)

    def _answer(self, values: dict[int, Any]) -> None:
        for number, value in values.items():
            answer = self._questions.get(number)
            if answer is not None and not answer.done():
                answer.set_result(value)
