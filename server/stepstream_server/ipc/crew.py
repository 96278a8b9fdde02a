"""The worker processes as the main process sees them: started, replaced when they die, told to serve, to drain and to end.

All of them listen on one port (SO_REUSEPORT): the system gives each new connection to one of them, and what a dead worker held is
given to the others when its clients connect again. The port is reserved by a socket of this process that never listens, so that
it stays ours while a worker is replaced. A port for probes alone is shared and reserved in the same way.

Being asked what it has counted is also a worker's heartbeat: one that leaves several beats unanswered is killed and replaced.
Beats are counted, not seconds: where a machine or a container stands still as a whole, nobody is late.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from stepstream_server.access import Access
from stepstream_server.config import DoorSettings, LogLevel, LogSettings, bound_address, cannot_listen, split_address
from stepstream_server.engine.ports import Limits
from stepstream_server.ipc.channel import Channel
from stepstream_server.ipc.control import Begin, Count, Counts, Drained, DrainStreams, Fail, Listening, LogAt, Serve, TakeAccess
from stepstream_server.spec import ModelSpec

MODULE = "stepstream_server.worker"  # what a worker process runs

# A worker that dies sooner than this after it was started will do so again: the next one waits, twice as long each time.
_YOUNG_SECONDS = 5.0
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.1, 5.0
# From being started to listening, in beats. It takes one third of a second, and several on a small share of a core.
_BEGIN_SECONDS = 20.0
# One after the other; of a second each by default. A flood of requests was seen to hold a worker's loop up for three of them.
_UNANSWERED_BEATS = 5
_LATE_BEATS = 2  # unanswered: a whole beat has passed, and a scrape does not wait for that worker
_MOST_ASKED = 8  # times that a worker is asked which has not answered: by beats and scrapes, or by scrapes alone without beats
_COUNT_SECONDS = 1.0  # that a scrape waits for a worker that is busy
_END_SECONDS = 4.0  # from the end of its channel to being killed: what its calls are given, and three more

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Worker:
    """One process."""

    place: int
    process: asyncio.subprocess.Process
    channel: Channel
    born: float  # monotonic seconds
    log_level: LogLevel  # with which it began
    access: str  # likewise
    patience: int  # beats that it may leave unanswered
    unanswered: int = 0  # beats since it last answered
    asked: deque[asyncio.Future[None]] = field(default_factory=deque)  # who waits for it to count, in order
    drained: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Crew:
    """On the main process's event loop."""

    def __init__(
        self,
        size: int,
        specs: Sequence[ModelSpec],
        settings: DoorSettings,
        logs: LogSettings,
        version: str,
        attach: Sequence[Callable[[socket.socket], None]],
        on_counted: Callable[[int, Counts], None],
        heartbeat_seconds: float,
        access: Access | None = None,
    ) -> None:
        """attach: for each model, how its engine is told of a new worker at the other end of a socket. on_counted: hears the
        place of a worker and what it has counted. heartbeat_seconds: between two beats; 0 for none. access: who may call;
        None: anybody."""
        self._size = size
        self._specs = [replace(spec, extra={}) for spec in specs]  # fields of the author's own, which no front door reads
        self._door = _share(settings, size)
        self._log = logs
        self._access = _shared_out(access, size)
        self._version = version
        self._attach = attach
        self._on_counted = on_counted
        self._heartbeat = heartbeat_seconds
        self._beating: asyncio.Task[None] | None = None
        self._addresses = "", ""  # for all callers, and for probes alone
        self._reserved: list[socket.socket] = []
        self._serve: Serve | None = None  # once it was said, new workers are told at once
        self._workers: dict[int, _Worker] = {}  # those that listen, by place
        self._watched: set[_Worker] = set()  # these and those that begin, until they end
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._ending = False  # there shall be no more workers
        self._dismissed = False  # all have been told to end
        self.deaths = 0  # of workers that nobody had told to end, those that never listened included

    @property
    def alive(self) -> int:
        """Workers at work."""
        return len(self._workers)

    async def start(self, listen: str, health: str = "") -> tuple[str, str]:
        """Starts all workers; returns both addresses, as bound, once all of them listen there. health: for probes alone; "" for
        nowhere. Raises OSError if an address cannot be had."""
        self._addresses = self._keep_address("listen", listen), self._keep_address("health", health) if health else ""
        if self._heartbeat:
            self._beating = asyncio.create_task(self._go_on_beating())
        for problem in await asyncio.gather(*map(self._fill, range(self._size)), return_exceptions=True):
            if problem is not None:  # `stop` ends those that could begin
                raise problem
        return self._addresses

    def serve(self, limits: Sequence[Limits]) -> None:
        """Every model is warm."""
        self._serve = Serve(list(limits))
        self._tell(self._serve)

    def log_level(self, level: LogLevel) -> None:
        """The level at which all workers log from now on."""
        self._log = self._log.model_copy(update={"level": level})
        self._tell(LogAt(level))

    def take_access(self, access: Access) -> None:
        """From now on this tells who may call, and what they may have of all workers together."""
        self._access = _shared_out(access, self._size)
        self._tell(TakeAccess(self._access))

    def fail(self) -> None:
        """An engine has crashed."""
        self._tell(Fail())

    async def drain(self, seconds: float, *, resume: bool = False) -> bool:
        """Has all streams end once what was accepted is answered and none holds sessions. resume: whether durable sessions will
        be found again. Returns whether all of it was and all
        have."""
        self._ending = True
        waiting = [worker.drained for worker in self._workers.values()]
        self._tell(DrainStreams(seconds, resume))
        if not waiting:
            return True
        done, late = await asyncio.wait(waiting, timeout=seconds + _END_SECONDS)
        return not late and all(each.result() for each in done)

    async def stop(self) -> None:
        """Has all workers end, and ends those that do not."""
        self._ending = self._dismissed = True
        for worker in self._workers.values():
            worker.channel.close()
        for place, keeper in self._keepers.items():
            if place not in self._workers:
                keeper.cancel()  # it looks for another one
        if self._keepers:
            await asyncio.wait(self._keepers.values())
        if self._beating is not None:
            self._beating.cancel()
        for reserved in self._reserved:
            reserved.close()

    async def count(self) -> None:
        """Has all workers say what they have counted; what one counts that dies before that is lost."""
        on_time = [each for each in self._workers.values() if each.unanswered < _LATE_BEATS and len(each.asked) < _MOST_ASKED]
        asked = [self._ask(worker) for worker in on_time]
        if asked:
            await asyncio.wait(asked, timeout=_COUNT_SECONDS)

    def beat(self) -> None:
        """Asks all workers whether they go on. Kills those that have left too many beats unanswered: they count as dead."""
        for worker in list(self._watched):
            if worker.unanswered < worker.patience:
                worker.unanswered += 1
                self._ask(worker)
            else:
                self._watched.discard(worker)
                seconds = worker.unanswered * self._heartbeat
                log.error("worker_hangs", worker=worker.place, pid=worker.process.pid, seconds=seconds)
                _kill(worker.process)  # the end of its channel tells

    def _keep_address(self, setting: str, address: str) -> str:
        """Reserves an address for the workers until the end; returns it as bound. Raises OSError if it cannot be had."""
        try:
            reserved = _reserve(*split_address(address))
        except OSError as error:
            raise cannot_listen(setting, address, error) from error
        self._reserved.append(reserved)
        return bound_address(address, reserved.getsockname()[1])

    async def _go_on_beating(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat)
            self.beat()

    def _ask(self, worker: _Worker) -> asyncio.Future[None]:
        """Asks a worker to count; done once it has, or has ended."""
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        worker.asked.append(answered)
        worker.channel.tell(Count())
        return answered

    def _tell(self, message: object) -> None:
        for worker in self._workers.values():
            worker.channel.tell(message)

    async def _fill(self, place: int) -> None:
        """Has a worker begin and be kept. Raises OSError if it cannot."""
        worker = await self._hire(place)
        self._take_on(worker)
        self._keepers[place] = asyncio.create_task(self._keep(worker))

    async def _keep(self, worker: _Worker) -> None:
        """Hears a worker until its end, then replaces it, until there shall be none."""
        place, pause = worker.place, _FIRST_PAUSE_SECONDS
        while True:
            await self._hear(worker)
            code = await self._end(worker)
            del self._workers[place]
            if not self._dismissed:
                self.deaths += 1
                log.error("worker_died", worker=place, pid=worker.process.pid, code=code)
            if self._ending:
                return
            young = time.monotonic() - worker.born < _YOUNG_SECONDS
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS) if young else _FIRST_PAUSE_SECONDS
            replacement = await self._replace(place, pause if young else 0.0)
            if replacement is None:
                return
            worker = replacement
            log.info("worker_replaced", worker=place, pid=worker.process.pid)

    async def _replace(self, place: int, pause: float) -> _Worker | None:
        """Another worker, tried for until there is one; None once there shall be none."""
        while not self._ending:
            await asyncio.sleep(pause)
            try:
                worker = await self._hire(place)
            except OSError as error:
                log.error("worker_not_replaced", worker=place, error=str(error))
                pause = _LONGEST_PAUSE_SECONDS
                continue
            if self._ending:  # meanwhile: nobody would tell it to drain
                worker.channel.close()
                await self._end(worker)
                return None
            self._take_on(worker)
            return worker
        return None

    def _take_on(self, worker: _Worker) -> None:
        """Puts a worker to work, and tells it what the others were told while it began."""
        self._workers[worker.place] = worker
        if worker.log_level != self._log.level:
            worker.channel.tell(LogAt(self._log.level))
        if worker.access != self._access:
            worker.channel.tell(TakeAccess(self._access))
        if self._serve is not None:
            worker.channel.tell(self._serve)

    async def _hear(self, worker: _Worker) -> None:
        try:
            while True:
                match await worker.channel.hear():
                    case Counts() as counts:
                        worker.unanswered = 0
                        self._on_counted(worker.place, counts)
                        _resolve(worker.asked.popleft())
                    case Drained(complete):
                        worker.drained.set_result(complete)
        except EOFError:
            pass
        except Exception:
            log.error("worker_not_understood", worker=worker.place, pid=worker.process.pid, exc_info=True)
        finally:
            worker.channel.close()
            for each in worker.asked:
                _resolve(each)
            if not worker.drained.done():
                worker.drained.set_result(False)

    async def _hire(self, place: int) -> _Worker:
        """A process that listens. Raises OSError if it cannot."""
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            (line, _), *lines = pairs = [socket.socketpair() for _ in (None, *self._specs)]
            for mine, other in pairs:
                ours.enter_context(mine)
                theirs.enter_context(other)
            inherited = [other.fileno() for _, other in pairs]
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", MODULE, str(os.getpid()), *map(str, inherited)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                pass_fds=inherited,
                start_new_session=True,  # what a terminal or a shell sends to all is for the main process to heed
            )
            theirs.close()
            channel, patience = await Channel.over(line), _beats(_BEGIN_SECONDS, self._heartbeat)
            worker = _Worker(place, process, channel, time.monotonic(), self._log.level, self._access, patience)
            try:
                await self._begin(worker)
            except BaseException:
                worker.channel.close()
                await self._end(worker)
                raise
            for attach, (mine, _) in zip(self._attach, lines, strict=True):
                attach(mine)
            ours.pop_all()
        return worker

    async def _begin(self, worker: _Worker) -> None:
        """Returns once the worker listens. Raises OSError if it cannot."""
        door, logs = self._door.model_dump_json(), self._log.model_dump_json()
        worker.channel.tell(Begin(*self._addresses, door, logs, worker.access, self._version, self._specs))
        self._watched.add(worker)
        try:
            answer: Listening = await worker.channel.hear()
        except EOFError:
            self.deaths += 1
            raise OSError(f"a worker process ended before it listened, with {await self._end(worker)}") from None
        if answer.error:
            raise OSError(answer.error)
        worker.patience, worker.unanswered = _UNANSWERED_BEATS, 0

    async def _end(self, worker: _Worker) -> int:
        """The exit code of a worker whose channel has ended. One that does not end is killed."""
        self._watched.discard(worker)
        try:
            async with asyncio.timeout(_END_SECONDS):
                return await worker.process.wait()
        except TimeoutError:
            _kill(worker.process)
            return await worker.process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _beats(seconds: float, heartbeat_seconds: float) -> int:
    """At least so many seconds in beats, where there are beats."""
    return max(_UNANSWERED_BEATS, math.ceil(seconds / heartbeat_seconds) if heartbeat_seconds else 0)


def _resolve(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _shared_out(access: Access | None, size: int) -> str:
    """Gives what each of so many workers applies, in JSON."""
    return "" if access is None else access.of_one_door(size).model_dump_json()


def _share(settings: DoorSettings, size: int) -> DoorSettings:
    """What is bounded over all front doors, divided among them."""
    bounds = ("max_streams", "max_calls", "max_unread_bytes")
    return settings.model_copy(update={name: -(-getattr(settings, name) // size) for name in bounds})


def _reserve(host: str, port: int) -> socket.socket:
    """Makes a port ours, for workers to listen on. Raises OSError if somebody else has it."""
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:  # else two servers would silently share the port
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    reserved = socket.socket(family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        reserved.bind(address)
    except OSError:
        reserved.close()
        raise
    # It was for connections of an earlier server that linger; who asks for it later must not get the port while nobody listens.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return reserved
