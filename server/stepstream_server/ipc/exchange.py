"""The engine's side of the port across processes: its inbox is a set of sockets, one to each worker.

The engine's own thread waits for them, reads commands and writes deliveries: another thread in between would cost a switch and
the interpreter's lock each way. Measured, see `benchmarks/hops.py`.
"""

from __future__ import annotations

import os
import queue
import selectors
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from stepstream_server.engine.ports import Delivery, Door, DoorLost, Envelope, Sink
from stepstream_server.errors import StepStreamError
from stepstream_server.ipc.codec import decode, encode
from stepstream_server.ipc.frames import Frames

_LONGEST_WAIT_SECONDS = 3600.0  # epoll takes no more than 24 days at once
_LAST_WORD_SECONDS = 1.0  # that workers have to take in that the engine has ended


class Exchange:
    """An engine's inbox, as a queue of envelopes. All but `put` and `attach` is for the engine's thread."""

    def __init__(self) -> None:
        self._envelopes: deque[Envelope | None] = deque()
        self._joining: deque[socket.socket] = deque()
        self._selector = selectors.DefaultSelector()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._asleep = False
        self._connect: Callable[[Sink], Door] | None = None

    def open(self, connect: Callable[[Sink], Door]) -> None:
        """Who connects front doors to the engine; before its first turn."""
        self._connect = connect

    def attach(self, line: socket.socket) -> None:
        """A worker at the other end of a socket becomes a front door, before anything that it says is heard. From any thread."""
        self._joining.append(line)
        self._wake()

    def put(self, envelope: Envelope | None) -> None:
        """Adds an envelope, or wakes who waits. From any thread."""
        self._envelopes.append(envelope)
        self._wake()

    def get(self, *, timeout: float) -> Envelope | None:
        """The next envelope, waited for no longer than so many seconds. Raises queue.Empty."""
        if not self._envelopes:
            self._listen(min(timeout, _LONGEST_WAIT_SECONDS))
        return self._take()

    def get_nowait(self) -> Envelope | None:
        """The same without waiting."""
        if not self._envelopes:
            self._listen(0.0)
        return self._take()

    def qsize(self) -> int:
        """Envelopes that have been read."""
        return len(self._envelopes)

    def watch(self, link: Link, events: int) -> None:
        """What of a link is waited for from now on."""
        self._selector.modify(link.frames, events, link)

    def close(self) -> None:
        """Lets go of all workers."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, Link):
                self._selector.unregister(key.fileobj)
                key.data.frames.close()
        while self._joining:
            self._joining.popleft().close()
        self._selector.close()
        os.close(self._wakeup)

    def _take(self) -> Envelope | None:
        try:
            return self._envelopes.popleft()
        except IndexError:
            raise queue.Empty from None

    def _listen(self, seconds: float) -> None:
        """Reads what has arrived."""
        self._asleep = True
        ready = self._selector.select(0.0 if self._envelopes or self._joining else seconds)
        self._asleep = False
        for key, events in ready:
            if isinstance(key.data, Link):
                self._serve(key.data, events)
            else:
                os.eventfd_read(self._wakeup)
        while self._joining and self._connect is not None:
            self._join(self._joining.popleft(), self._connect)

    def _join(self, line: socket.socket, connect: Callable[[Sink], Door]) -> None:
        link = Link(Frames(line), self)
        link.door = connect(link)
        self._selector.register(link.frames, selectors.EVENT_READ, link)

    def _serve(self, link: Link, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                link.flush()
            if events & selectors.EVENT_READ:
                for frame in link.frames.receive():
                    link.door.submit(*decode(frame))
        except (EOFError, OSError):  # the worker has died
            self._selector.unregister(link.frames)
            link.lose()
            link.door.submit(DoorLost())

    def _wake(self) -> None:
        if self._asleep:
            os.eventfd_write(self._wakeup, 1)


class Link:
    """One worker, as the engine's sink."""

    door: Door

    def __init__(self, frames: Frames, exchange: Exchange) -> None:
        self.frames = frames
        self._exchange = exchange
        self._lost = False

    def deliver(self, delivery: Delivery) -> None:
        """What the worker does not take at once is bounded by what its streams have in flight."""
        self._send(encode(delivery))

    def fail(self, error: StepStreamError) -> None:
        self._send(encode(error))
        if not self._lost and self.frames.blocked:
            with suppress(OSError):
                self.frames.finish(_LAST_WORD_SECONDS)

    def flush(self) -> None:
        """Goes on where the worker had no room. Raises OSError."""
        self.frames.flush()
        if not self.frames.blocked:
            self._exchange.watch(self, selectors.EVENT_READ)

    def lose(self) -> None:
        """The worker has died: nothing is told to it any more."""
        self._lost = True
        self.frames.close()

    def _send(self, frame: bytes) -> None:
        if self._lost:
            return
        blocked = self.frames.blocked
        with suppress(OSError):  # the worker has died: reading will tell
            self.frames.send(frame)
            if self.frames.blocked and not blocked:
                self._exchange.watch(self, selectors.EVENT_READ | selectors.EVENT_WRITE)
