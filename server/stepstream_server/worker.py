"""A worker process: one front door to engines that live in the main process. Started by `ipc.crew`, never by hand.

The composition root of such a process, as `app` is of the main one: of the rooms it knows rpc and ipc alone, and it imports
neither torch nor onnxruntime. No signal tells it to end: the main process tells it what to do, and when that is gone it ends.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import sys
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any

from stepstream_server import logs, memory, parent, process
from stepstream_server.access import Access
from stepstream_server.config import DoorSettings, LogSettings
from stepstream_server.engine.ports import Limits
from stepstream_server.ipc import RemoteEngine
from stepstream_server.ipc.channel import Channel
from stepstream_server.ipc.control import Begin, Count, Counts, Drained, DrainStreams, Fail, Listening, LogAt, Serve, TakeAccess
from stepstream_server.rpc import EngineClient, Models, RpcServer

_END_GRACE_SECONDS = 1.0  # for calls to be told how they ended
_ORPHAN_SECONDS = 3.0  # from the main process's end to this one's, at most: the grace and two more


def main() -> None:
    """Arguments: the main process's id, then file descriptors of the channel and of the line to each engine."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    main_process, *descriptors = map(int, sys.argv[1:])
    parent.end_after_parent(main_process, _ORPHAN_SECONDS)
    channel, *lines = [socket.socket(fileno=each) for each in descriptors]
    process.run(work(channel, lines))


async def work(line: socket.socket, engines: Sequence[socket.socket]) -> None:
    """From being told where to listen to the main process's end."""
    channel = await Channel.over(line)
    try:
        begin: Begin = await channel.hear()
    except EOFError:
        return
    logs.configure(LogSettings.model_validate_json(begin.log))
    worker = Worker(channel, begin, engines)
    try:
        await worker.listen()
        while True:
            worker.heed(await channel.hear())
    except EOFError:
        pass
    finally:
        await worker.stop()


class Worker:
    """A front door and what the main process wants of it."""

    def __init__(self, channel: Channel, begin: Begin, engines: Sequence[socket.socket]) -> None:
        self._channel = channel
        self._begin = begin
        self._engines = engines
        self._models = Models(begin.specs)
        self._calls: Counter[tuple[str, str, str]] = Counter()  # that have ended since the main process asked
        settings = DoorSettings.model_validate_json(begin.door)
        access = Access.model_validate_json(begin.access) if begin.access else None
        self._rpc = RpcServer(self._models, settings, self._count, begin.version, access, shared=True)
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Says that it does, or why it cannot."""
        try:
            await self._rpc.start(self._begin.listen, self._begin.health)
        except OSError as error:
            self._channel.tell(Listening(str(error)))
        else:
            self._channel.tell(Listening())

    def heed(self, message: object) -> None:
        """Does what the main process says."""
        match message:
            case Serve(limits):
                self._do(self._serve(limits))
            case LogAt(level):
                logs.take_level(level)
            case TakeAccess(access):
                self._rpc.take_access(Access.model_validate_json(access))
            case DrainStreams(seconds, resume):
                self._do(self._drain(seconds, resume=resume))
            case Fail():
                self._rpc.health.failed()
            case Count():
                self._channel.tell(self._counts())

    async def stop(self) -> None:
        """Takes no more calls, and gives those that are open a moment to hear of it."""
        self._rpc.health.failed()
        await self._rpc.stop(_END_GRACE_SECONDS)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, limits: Sequence[Limits]) -> None:
        loop = asyncio.get_running_loop()
        doors = []
        for spec, limit, line in zip(self._begin.specs, limits, self._engines, strict=True):
            door = EngineClient(spec, limit, loop)
            engine = RemoteEngine(line, door, loop)
            door.open(engine)
            engine.start()
            doors.append(door)
        self._models.publish(doors)
        self._rpc.health.serving()
        process.settle_down()
        self._do(memory.keep_small())

    async def _drain(self, seconds: float, *, resume: bool) -> None:
        self._channel.tell(Drained(await self._rpc.drain(seconds, resume=resume)))

    def _count(self, service: str, method: str, code: str) -> None:
        self._calls[service, method, code] += 1

    def _counts(self) -> Counts:
        calls, self._calls = self._calls, Counter()
        used = resource.getrusage(resource.RUSAGE_SELF)
        processor = used.ru_utime + used.ru_stime
        return Counts([(*call, count) for call, count in calls.items()], processor, memory.resident_bytes())


if __name__ == "__main__":
    main()
