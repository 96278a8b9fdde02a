"""A worker's side of the port across processes: an engine's mouth and ear on an event loop."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Protocol

import structlog

from stepstream_server.engine.ports import Command, Delivery, Detached, Reply, RowErrors
from stepstream_server.errors import CallerError, Reason, ServerFault, StepStreamError
from stepstream_server.ipc.codec import decode, encode
from stepstream_server.ipc.frames import Frames

log = structlog.get_logger(__name__)


class Hearer(Protocol):
    """Who the engine speaks to. Called on the event loop."""

    def hear(self, delivery: Delivery) -> None:
        """A turn's outcomes."""

    def give_up(self, error: StepStreamError) -> None:
        """The engine has failed, or its process has ended: nothing more will come. Called once."""


class RemoteEngine:
    """The engine at the other end of a socket, as a `Door`. On the event loop's thread."""

    def __init__(self, line: socket.socket, hearer: Hearer, loop: asyncio.AbstractEventLoop) -> None:
        self._frames = Frames(line)
        self._hearer = hearer
        self._loop = loop
        self._over = False

    def start(self) -> None:
        """Begins to listen."""
        self._loop.add_reader(self._frames, self._read)

    def submit(self, *commands: Command) -> None:
        """Sends an envelope. Never waits: what the engine has no room for goes later. Raises ServerFault once it has ended."""
        if self._over:
            raise _ended()
        try:
            envelope = encode(commands)
        except (TypeError, ValueError, OverflowError):
            envelope = encode([command for command in commands if self._can_be_said(command)])
        blocked = self._frames.blocked
        with suppress(OSError):  # the engine's process has ended: reading will tell
            self._frames.send(envelope)
            if self._frames.blocked and not blocked:
                self._loop.add_writer(self._frames, self._write)

    def _can_be_said(self, command: Command) -> bool:
        """False for a command that no check should have let through; who has asked it is told, and nobody else is harmed."""
        try:
            encode(command)
        except (TypeError, ValueError, OverflowError) as error:
            log.error("command_not_sent", command=type(command).__name__, exc_info=True)
            if (request := getattr(command, "request", None)) is not None:
                reply = Reply(request, CallerError(Reason.INVALID_ARGUMENT, f"it holds what cannot be passed on: {error}"))
                self._loop.call_soon(self._hearer.hear, Delivery([reply], None, RowErrors(), Detached()))
            return False
        return True

    def _read(self) -> None:
        try:
            for frame in self._frames.receive():
                said = decode(frame)
                if isinstance(said, StepStreamError):
                    self._end(said)
                    return
                self._pass_on(said)
        except (EOFError, OSError):
            self._end(_ended())

    def _pass_on(self, delivery: Delivery) -> None:
        """A failure over one delivery is not to cost others theirs."""
        try:
            self._hearer.hear(delivery)
        except Exception:
            log.error("delivery_failed", exc_info=True)

    def _write(self) -> None:
        with suppress(OSError):
            self._frames.flush()
        if not self._frames.blocked:
            self._loop.remove_writer(self._frames)

    def _end(self, error: StepStreamError) -> None:
        self._over = True
        self._loop.remove_reader(self._frames)
        self._loop.remove_writer(self._frames)
        self._frames.close()
        self._hearer.give_up(error)


def _ended() -> ServerFault:
    return ServerFault(Reason.ENGINE_LOST, "the process that computes has ended")
