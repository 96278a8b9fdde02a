"""What a hop between two processes costs: frames from an event loop to a thread of another process, and as many back.

`python -m benchmarks.hops` prints a table. The worker is this process: a uvloop that reads when a descriptor says so, as a
process that speaks gRPC would. The engine is another: a thread that sleeps in epoll, takes what is there, and answers each frame
with one of its own of the same size. Neither ever blocks in a read or a write. Frames are a length and that many bytes; what is
sent at one time goes out in one call, and what has come is taken in one. The ways there are:

- `socket`: a Unix stream socket.
- `pipe`: a pipe for each direction.
- `ring`: in shared memory a ring of bytes for each direction, which one side writes and the other reads; an eventfd wakes it.
- `zeromq`: a PAIR over ipc://, which has a thread on each side that does what the others do themselves.

With one frame in flight a round trip is mostly two threads woken up; with sixteen it is what handling a frame costs. Both sides
are kept on one core or on a core each: to wake a thread of another core costs more than anything else here, and which of the two
happens would be the scheduler's mood. The ways take turns, so that a slow moment of the machine hits all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import importlib
import importlib.util
import mmap
import os
import select
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import uvloop

from benchmarks.machine import describe
from benchmarks.process import ROOT, module_command
from benchmarks.timing import interleave

WAYS = ("socket", "pipe", "ring", "zeromq")
SIZES = {"200 B": 200, "8 KiB": 8 << 10, "256 KiB": 256 << 10}  # about one step, 64 of them, and a large block
_MANY = 16  # frames in flight
_ROUNDS = 5
_SECONDS = 0.3  # of one run
_PATIENCE = 20.0  # seconds, for what has been sent to be answered
_STOP_SECONDS = 5.0  # an engine ends at once

_LENGTH = struct.Struct("<I")
_ROOM = 1 << 20  # bytes that a receiver takes at one time; the most that Linux gives a pipe unless told otherwise
_RING = 8 << 20  # more than is ever in flight: a ring that is full is not what is measured
_LINE = 64  # bytes: what both sides write lies on cache lines of their own
_PARTS = 1024  # IOV_MAX
_JOINED = 32 << 10  # bytes: to copy fewer once more is cheaper than to hand over each part

Frame = bytes | memoryview
Cores = tuple[int, int]  # the worker's and the engine's


class Channel(Protocol):
    """One side's end of a hop. Calls never block."""

    wakes: int  # readable when there may be frames
    drains: int  # writable when `flush` may get on

    def receive(self) -> Sequence[Frame]:
        """What has come; may be overwritten by the next call. Raises EOFError if the other side is gone."""

    def more(self) -> bool:
        """Whether frames are there that `wakes` may stay silent about; asked after a send."""

    def send(self, frames: Sequence[bytes]) -> bool:
        """Whether all is out; otherwise the rest goes with `flush`."""

    def flush(self) -> bool:
        """As `send`."""

    def close(self) -> None:
        """Ends."""


class Stream(Protocol):
    """Bytes in their order. Raises BlockingIOError where it would have to wait."""

    wakes: int
    drains: int

    def read(self, into: memoryview) -> int: ...

    def write(self, parts: list[Frame]) -> int: ...

    def close(self) -> None: ...


class Socket:
    """A Unix stream socket."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)  # as much as a pipe, where the system allows it
        self.wakes = descriptor
        self.drains = os.dup(descriptor)  # epoll tells apart what is waited for by its number

    def read(self, into: memoryview) -> int:
        return self._socket.recv_into(into)

    def write(self, parts: list[Frame]) -> int:
        return self._socket.sendmsg(parts)

    def close(self) -> None:
        self._socket.close()
        os.close(self.drains)


class Pipe:
    """Two pipes, of which one end each is ours."""

    def __init__(self, reads: int, writes: int) -> None:
        self.wakes, self.drains = reads, writes
        for each in (reads, writes):
            os.set_blocking(each, False)

    def read(self, into: memoryview) -> int:
        return os.readv(self.wakes, [into])

    def write(self, parts: list[Frame]) -> int:
        return os.writev(self.drains, parts)

    def close(self) -> None:
        os.close(self.wakes)
        os.close(self.drains)


class Ring:
    """Two rings in shared memory and an eventfd for each.

    A ring is how many bytes were ever written, how many were ever read, and the bytes. Each count has one writer, which moves it
    when the bytes are in their place: x86 shows a processor's stores to the others in their order. Elsewhere it would take
    fences, which Python does not have.
    """

    def __init__(self, memory: int, wakes: int, drains: int, engine: bool) -> None:
        """The worker reads the lower ring, the engine the upper one."""
        self.wakes, self.drains = wakes, drains  # a ring is never full: nobody waits for `drains`
        self._memory = mmap.mmap(memory, 2 * _ring_bytes())
        os.close(memory)
        rings = [memoryview(self._memory)[at : at + _ring_bytes()] for at in (0, _ring_bytes())]
        self._reads, self._writes = (_Counted(each) for each in (rings[::-1] if engine else rings))

    def read(self, into: memoryview) -> int:
        os.eventfd_read(self.wakes)  # before looking: what comes after the look is told of again
        ring = self._reads
        start, there = ring.read[0], ring.written[0] - ring.read[0]
        if not there:  # they had come before we were told
            raise BlockingIOError
        count = min(there, len(into))
        at = start % _RING
        first = min(count, _RING - at)
        into[:first] = ring.data[at : at + first]
        into[first:count] = ring.data[: count - first]
        ring.read[0] = start + count
        if count < there:
            os.eventfd_write(self.wakes, 1)
        return count

    def write(self, parts: list[Frame]) -> int:
        ring = self._writes
        start = end = ring.written[0]
        if (after := start + sum(map(len, parts)) - ring.read[0]) > _RING:
            raise BufferError(f"expected at most {_RING} bytes in flight, got {after}")
        for part in parts:
            at, length = end % _RING, len(part)
            first = min(length, _RING - at)
            ring.data[at : at + first] = part if first == length else part[:first]
            if first < length:
                ring.data[: length - first] = part[first:]
            end += length
        ring.written[0] = end
        os.eventfd_write(self.drains, 1)
        return end - start

    def close(self) -> None:
        for each in (self._reads, self._writes):
            each.release()
        self._memory.close()
        os.close(self.wakes)
        os.close(self.drains)


class _Counted:
    """Views of one ring."""

    def __init__(self, memory: memoryview) -> None:
        self.written = memory[:8].cast("Q")
        self.read = memory[_LINE : _LINE + 8].cast("Q")
        self.data = memory[2 * _LINE :]
        self._memory = memory

    def release(self) -> None:
        """Memory that is looked at is not unmapped."""
        for each in (self.written, self.read, self.data, self._memory):
            each.release()


def _ring_bytes() -> int:
    return 2 * _LINE + _RING


class Framed:
    """Frames over a stream of bytes."""

    def __init__(self, stream: Stream) -> None:
        self.wakes, self.drains = stream.wakes, stream.drains
        self._stream = stream
        self._room = memoryview(bytearray(_ROOM))
        self._start = self._end = 0  # of what was read and is not a whole frame yet
        self._waiting: list[Frame] = []

    def receive(self) -> Sequence[Frame]:
        room, kept = self._room, self._end - self._start
        room[:kept] = room[self._start : self._end]
        try:
            count = self._stream.read(room[kept:])
        except BlockingIOError:
            count = 0
        else:
            if not count:
                raise EOFError("the other side is gone")
        self._start, self._end = 0, kept + count
        return list(self._whole())

    def _whole(self) -> Iterator[Frame]:
        room, end = self._room, self._end
        while (begin := self._start + _LENGTH.size) <= end:
            after = begin + _LENGTH.unpack_from(room, self._start)[0]
            if after > end:
                return
            yield room[begin:after]
            self._start = after

    def more(self) -> bool:
        return False

    def send(self, frames: Sequence[bytes]) -> bool:
        idle = not self._waiting
        parts = [part for each in frames for part in (_LENGTH.pack(len(each)), each)]
        self._waiting += [b"".join(parts)] if sum(map(len, parts)) < _JOINED else parts
        return idle and self.flush()

    def flush(self) -> bool:
        parts = self._waiting[:_PARTS]
        try:
            written = self._stream.write(parts)
        except BlockingIOError:
            return False
        for index, part in enumerate(parts):
            if written < len(part):
                self._waiting[: index + 1] = [memoryview(part)[written:]]
                return False
            written -= len(part)
        del self._waiting[: len(parts)]
        return not self._waiting

    def close(self) -> None:
        self._stream.close()


class ZeroMq:
    """A PAIR. Frames go as they are: its own threads put together what goes out at one time."""

    def __init__(self, address: str, binds: bool) -> None:
        self._zmq: Any = importlib.import_module("zmq")  # not a dependency: whoever wants the figure installs pyzmq
        self._context = self._zmq.Context()
        self._socket = self._context.socket(self._zmq.PAIR)
        self._socket.linger = 0
        (self._socket.bind if binds else self._socket.connect)(address)
        self.wakes = self.drains = self._socket.fileno()

    def receive(self) -> Sequence[Frame]:
        frames: list[Frame] = []
        try:
            while True:
                frames.append(self._socket.recv(self._zmq.DONTWAIT))
        except self._zmq.Again:
            return frames

    def more(self) -> bool:
        """A send takes the sign that frames have come, too, and its descriptor tells of each only once."""
        return bool(self._socket.getsockopt(self._zmq.EVENTS) & self._zmq.POLLIN)

    def send(self, frames: Sequence[bytes]) -> bool:
        """Its queues hold a thousand frames: there is always room."""
        for each in frames:
            self._socket.send(each, self._zmq.DONTWAIT)
        return True

    def flush(self) -> bool:
        return True

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def installed(way: str) -> bool:
    """Whether a way is there on this machine."""
    return way != "zeromq" or importlib.util.find_spec("zmq") is not None


def build(way: str, ends: Sequence[str], engine: bool) -> Channel:
    """One side's end, from what `paired` says of it: descriptors, which it takes, or an address."""
    if way == "zeromq":
        return ZeroMq(ends[0], binds=engine)  # who connects can send at once
    descriptors = [int(each) for each in ends]
    match way:
        case "socket":
            return Framed(Socket(descriptors[0]))
        case "pipe":
            return Framed(Pipe(descriptors[0], descriptors[1]))
        case _:
            return Framed(Ring(descriptors[0], descriptors[1], descriptors[2], engine))


@contextmanager
def paired(way: str) -> Iterator[tuple[list[str], list[str]]]:
    """What the worker's and the engine's ends are built from. The descriptors are for those who build to close."""
    if way == "zeromq":
        with tempfile.TemporaryDirectory() as folder:
            address = [f"ipc://{Path(folder) / 'hop'}"]
            yield address, address
        return
    if way == "socket":
        ours, theirs = ([each.detach()] for each in socket.socketpair())
    elif way == "pipe":
        (up_read, up_write), (down_read, down_write) = os.pipe(), os.pipe()
        for each in (up_write, down_write):
            fcntl.fcntl(each, fcntl.F_SETPIPE_SZ, _ROOM)
        ours, theirs = [down_read, up_write], [up_read, down_write]
    else:
        # Shared memory without a name: nothing is left behind, whoever is killed, and no resource tracker runs beside.
        memory, down, up = os.memfd_create("hop"), os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
        os.truncate(memory, 2 * _ring_bytes())
        ours, theirs = [memory, down, up], [os.dup(each) for each in (memory, up, down)]
    yield [str(each) for each in ours], [str(each) for each in theirs]


def serve(channel: Channel, leash: int) -> None:
    """The engine: answers each frame with one of its own of the same size, until nobody holds the other end of `leash`.

    Shared memory does not tell that the other side is gone; a pipe does, even if that was killed.
    """
    waiting = False  # for `drains`
    with select.epoll() as poller:
        poller.register(leash)
        poller.register(channel.wakes, select.EPOLLIN)
        while leash not in (ready := {each for each, _ in poller.poll()}):
            if waiting and channel.drains in ready and channel.flush():
                poller.unregister(channel.drains)
                waiting = False
            if channel.wakes in ready and not _answer(channel) and not waiting:
                poller.register(channel.drains, select.EPOLLOUT)
                waiting = True


def _answer(channel: Channel) -> bool:
    """Whether all is out."""
    out = True
    while sizes := [len(each) for each in channel.receive()]:
        out = channel.send([_filled(each) for each in sizes])
        if not channel.more():
            break
    return out


@cache
def _filled(size: int) -> bytes:
    return bytes(size)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run."""

    p50: float  # seconds from sending to hearing; of a round trip where one frame is in flight
    rate: float  # frames there and back per second
    cpu: float  # seconds per frame there and back, of both processes


class Volley:
    """The worker: keeps frames in flight until a time, and hears all answers."""

    def __init__(self, channel: Channel, size: int, flight: int, seconds: float) -> None:
        self.answers = 0
        self.trips: list[float] = []
        self._channel = channel
        self._frame = bytes(size)
        self._flight = flight
        self._outstanding = 0
        self._said = time.perf_counter()
        self._until = self._said + seconds
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def run(self) -> None:
        """Raises EOFError or OSError if the engine is gone, TimeoutError if it is silent."""
        self._loop.add_reader(self._channel.wakes, self._hear)
        try:
            self._say(self._flight)
            async with asyncio.timeout_at(self._loop.time() + self._until - self._said + _PATIENCE):
                await self._done
        finally:
            self._loop.remove_reader(self._channel.wakes)

    def _say(self, count: int) -> None:
        self._outstanding += count
        self._said = time.perf_counter()
        if not self._channel.send([self._frame] * count):
            self._loop.add_writer(self._channel.drains, self._flush)
        if self._channel.more():
            self._loop.call_soon(self._hear)

    def _flush(self) -> None:
        if self._channel.flush():
            self._loop.remove_writer(self._channel.drains)

    def _hear(self) -> None:
        try:
            count = len(self._channel.receive())
        except (EOFError, OSError) as error:
            self._loop.remove_reader(self._channel.wakes)
            self._done.set_exception(error)
            return
        if not count:
            return
        now = time.perf_counter()
        self.trips.append(now - self._said)
        self.answers += count
        self._outstanding -= count
        if now < self._until:
            self._say(count)
        elif not self._outstanding:
            self._done.set_result(None)


async def measure(channel: Channel, pid: int, size: int, flight: int, seconds: float) -> Sample:
    """One run with an engine that is there."""
    volley = Volley(channel, size, flight, seconds)
    begun, cpu = time.perf_counter(), _cpu_seconds(pid)
    await volley.run()
    cpu, elapsed = _cpu_seconds(pid) - cpu, time.perf_counter() - begun
    return Sample(statistics.median(volley.trips), volley.answers / elapsed, cpu / volley.answers)


def _cpu_seconds(pid: int) -> float:
    """Of this process and that one, with all their threads; /proc counts in hundredths of a second, Linux's clocks do not."""
    return time.process_time() + time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)


@contextmanager
def engine(way: str, cores: Cores) -> Iterator[tuple[Channel, int]]:
    """An engine's process: the channel to it and its number. It has ended when the context ends."""
    with ExitStack() as stack:
        ours, theirs = stack.enter_context(paired(way))
        inherited = [] if way == "zeromq" else [int(each) for each in theirs]
        command = module_command("hops", "--engine", way, *theirs)
        with _kept_on(cores[1]):  # which all its threads inherit
            process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, pass_fds=inherited))
        for each in inherited:
            os.close(each)
        channel = build(way, ours, engine=False)
        stack.callback(channel.close)
        try:
            yield channel, process.pid
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_STOP_SECONDS)  # closes its leash
            process.kill()  # nothing, once it was waited for


@contextmanager
def _kept_on(core: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compare(sizes: dict[str, int], rounds: int, seconds: float, cores: Cores) -> Iterator[tuple[str, str, Sample, Sample]]:
    """Payload, way, medians with one frame in flight and with many; ways that are there."""
    with ExitStack() as stack:
        stack.enter_context(_kept_on(cores[0]))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        engines = {way: stack.enter_context(engine(way, cores)) for way in WAYS if installed(way)}

        def run(way: str, size: int, flight: int, seconds: float) -> Sample:
            return runner.run(measure(*engines[way], size, flight, seconds))

        for name, size in sizes.items():
            for way in engines:
                run(way, size, _MANY, 0.0)  # until it is there, and has its memory
            one, many = (
                interleave({way: partial(run, way, size, flight, seconds) for way in engines}, rounds) for flight in (1, _MANY)
            )
            for way in engines:
                yield name, way, _median(one[way]), _median(many[way])


def _median(samples: Sequence[Sample]) -> Sample:
    return Sample(*(statistics.median(getattr(each, field) for each in samples) for field in Sample.__slots__))


def main() -> None:
    """Prints what hops cost."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--seconds", type=float, default=_SECONDS, help="of one run")
    parser.add_argument("--engine", nargs="+", help=argparse.SUPPRESS)  # a way and what `paired` says of the engine's end
    arguments = parser.parse_args()
    if arguments.engine:
        way, *ends = arguments.engine
        serve(build(way, ends, engine=True), sys.stdin.fileno())
        return
    machine, cores = describe(), sorted(os.sched_getaffinity(0))
    print(f"{machine['cores']} cores, {machine['cpu']}, {machine['system']}")
    _print(arguments, "on one core", (cores[0], cores[0]))
    if len(cores) > 1:
        _print(arguments, "on a core each", (cores[1], cores[0]))


def _print(arguments: argparse.Namespace, title: str, cores: Cores) -> None:
    """One table."""
    print(f"\n{title:17} {'one in flight':>24}   {f'{_MANY} in flight':>26}")
    print(f"{'payload':8} {'way':8} {'p50 µs':>10} {'CPU µs/trip':>13}   {'frames/s':>12} {'CPU µs/frame':>13}")
    for name, way, one, many in compare(SIZES, arguments.rounds, arguments.seconds, cores):
        left = f"{one.p50 * 1e6:>10.1f} {one.cpu * 1e6:>13.1f}"
        print(f"{name:8} {way:8} {left}   {many.rate:>12,.0f} {many.cpu * 1e6:>13.2f}", flush=True)
    for way in WAYS:
        if not installed(way):
            print(f"{'any':8} {way:8} not installed")


if __name__ == "__main__":
    main()
