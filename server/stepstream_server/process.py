"""Wishes of every process of the server to its interpreter and to gRPC: event loop, threads, garbage, experiments, silence."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

# How long the event loop and an engine's thread may keep the interpreter from each other. The thread computes chunks and wide
# launches, and wants the lock back after each. Measured against 2 ms: 1.1 times the steps in blocks of 1 x 64; below half a
# millisecond blocks of 1,000 x 1 lose 7 to 10 %, since the two take the lock from each other in the middle of a turn.
_SWITCH_SECONDS = 0.001
# Objects made and not yet freed between two looks for cycles of garbage. Python's 700 takes 8 % of a busy server's CPU time;
# hardly anything here is in cycles, and what there was at the start is never looked at again.
_YOUNG_OBJECTS = 10_000
# gRPC then reads by the thread that polls, and not by a pool of threads of its own: a fifth less CPU time per message of server
# and echo (grpcio 1.85).
_EXPERIMENTS = "-event_engine_listener"
# gRPC's core writes on stderr by itself, unescaped and beside the server's log: whoever sends a GOAWAY with a line of JSON in its
# debug data would have that line among ours.
_VERBOSITY = "NONE"


def choose_for_grpc() -> None:
    """Chooses gRPC's experiments and what it writes on stderr, for this process and its children, unless the operator has. To be
    called before anything imports grpc."""
    os.environ.setdefault("GRPC_EXPERIMENTS", _EXPERIMENTS)
    os.environ.setdefault("GRPC_VERBOSITY", _VERBOSITY)


def raise_descriptor_limit() -> None:
    """Lets this process and its children have as many descriptors as the system grants: a connection takes one, and what is
    usual, 1,024, is for programs that still wait by `select`."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS grants less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs the process's event loop until `main` is done."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.set_threshold(_YOUNG_OBJECTS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def hold_hang_ups() -> None:
    """A hang-up (SIGHUP) that comes from now on waits until somebody heeds it; it would end the process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})


def heed_hang_ups(loop: asyncio.AbstractEventLoop, on_hang_up: Callable[[], object]) -> None:
    """From now on the loop is told of hang-ups, also in a process that was started to ignore them, as by `nohup`."""
    loop.add_signal_handler(signal.SIGHUP, on_hang_up)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


@contextlib.contextmanager
def hang_ups_held() -> Iterator[None]:
    """For processes that are started meanwhile: they hold hang-ups until they heed them."""
    hold_hang_ups()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def settle_down() -> None:
    """What there is now will stay: the collector need never look at it again."""
    gc.collect()
    gc.freeze()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: 10 to 20 % more messages per second."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
