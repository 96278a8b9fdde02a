"""What every process of the server wants of its interpreter and of gRPC: event loop, threads, garbage, experiments."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

# How long the event loop and an engine may keep the interpreter from each other: a turn of up to a hundred rows, so that the two
# do not take it from each other again and again in the middle of one. Measured against half a millisecond: up to 10 % less CPU
# time per step with 64 streams, chunks and blocks, a third more steps over one connection. Beyond 3 ms nothing more is gained.
_SWITCH_SECONDS = 0.002
# Objects made and not yet freed between two looks for cycles of garbage. Python's 700 takes 8 % of a busy server's CPU time;
# hardly anything here is in cycles, and what there was at the start is never looked at again.
_YOUNG_OBJECTS = 10_000
# gRPC then reads by the thread that polls, and not by a pool of threads of its own: a fifth less CPU time per message of server
# and echo (grpcio 1.85).
_EXPERIMENTS_VARIABLE, _EXPERIMENTS = "GRPC_EXPERIMENTS", "-event_engine_listener"


def choose_experiments() -> None:
    """Chooses gRPC's experiments for this process and its children, unless the operator has. To be called before anything
    imports grpc."""
    os.environ.setdefault(_EXPERIMENTS_VARIABLE, _EXPERIMENTS)


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs the process's event loop until `main` is done."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.set_threshold(_YOUNG_OBJECTS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


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
