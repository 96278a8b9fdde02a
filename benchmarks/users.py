"""A client of `endurance` that uses all features, over and over: a process of its own.

They begin one after the other at a fixed rate, whether those before have ended or not. Once a minute all of them end and it is
quiet for some seconds, so that what is left over can be seen.

`python -m benchmarks.users PLAN` with a UsersPlan as JSON prints a UsersResult as JSON.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import grpc

from benchmarks.features import FEATURES
from benchmarks.use import Feature, Scene
from stepstream import (
    Client,
    ConnectionLost,
    Unavailable,
)

_ROUND_SECONDS, _REST_SECONDS = 50.0, 10.0  # a rest outlasts what nobody closes, and connections that have ended
_PATIENCE_SECONDS = 60.0  # for a use: what hangs is a failure
_AT_ONCE = 64  # features: where the server is slower than the rate for long, the rest are skipped and counted
_SHOWN = 20  # failures that are told in words
_MMAP_THRESHOLD = -3  # of mallopt(3)


@dataclass(frozen=True, slots=True)
class UsersPlan:
    """A load: where, for how long and how fast."""

    address: str  # HOST:PORT
    seconds: float
    rate: float  # features begun per second
    lossy: bool = False  # whether connections may break, as where workers are killed


@dataclass(frozen=True, slots=True)
class UsersResult:
    """Counts of each feature's uses to their end, and of what went wrong."""

    used: dict[str, int]
    broken: int  # uses that ended with their connection, where it may break
    skipped: int
    failed: int
    failures: list[str]  # the first of them


class Users:
    """Uses features at a rate, and counts how that ended."""

    def __init__(self, scene: Scene, plan: UsersPlan) -> None:
        self._scene = scene
        self._plan = plan
        self._next = itertools.cycle(FEATURES)
        self._running = 0
        self._used = Counter({each.__name__: 0 for each in FEATURES})
        self._counts: Counter[str] = Counter()
        self._failures: list[str] = []

    async def round(self, seconds: float) -> None:
        """Begins features for so long, and returns when all have ended."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        end = due + seconds
        async with asyncio.TaskGroup() as users:
            while due < end:
                await asyncio.sleep(due - loop.time())
                if self._running < _AT_ONCE:
                    users.create_task(self._use(next(self._next)))
                else:
                    self._counts["skipped"] += 1
                due += 1 / self._plan.rate

    async def _use(self, feature: Feature) -> None:
        with self._counted():
            try:
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await feature(self._scene)
                self._used[feature.__name__] += 1
            except Exception as error:
                if self._plan.lossy and _is_loss(error):
                    self._counts["broken"] += 1
                    return
                self._counts["failed"] += 1
                self._failures[_SHOWN:] = []
                self._failures.append(f"{feature.__name__}: {type(error).__name__}: {error}"[:500])

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def result(self) -> UsersResult:
        """Counts what happened so far."""
        counts = self._counts
        return UsersResult(dict(self._used), counts["broken"], counts["skipped"], counts["failed"], self._failures[:_SHOWN])


def _is_loss(error: Exception) -> bool:
    """Tells whether a use failed since its connection broke, or since a session expired while its client went on elsewhere."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    return isinstance(error, ConnectionLost | Unavailable | OSError)


async def use(plan: UsersPlan) -> UsersResult:
    """Rounds of use, each followed by a rest."""
    end = time.monotonic() + plan.seconds
    async with Client(plan.address) as client, grpc.aio.insecure_channel(plan.address) as channel:
        users = Users(Scene(plan.address, client, channel), plan)
        while (left := end - time.monotonic()) > 0:
            await users.round(min(left, _ROUND_SECONDS))
            await asyncio.sleep(min(end - time.monotonic(), _REST_SECONDS))
    return users.result()


def _keep_allocator_plain() -> None:
    """Has glibc's allocator take buffers of 128 KiB from the system, as it does at first, and go on doing so: it would soon cut
    them out of what it has, which then grows by gaps, and that is its own doing and no leak of the client's."""
    if (choose := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        choose(_MMAP_THRESHOLD, 128 << 10)


def main() -> None:
    """One plan in, one result out."""
    _keep_allocator_plain()
    plan = UsersPlan(**json.loads(sys.argv[1]))
    print(json.dumps(asdict(asyncio.run(use(plan)))), flush=True)


if __name__ == "__main__":
    main()
