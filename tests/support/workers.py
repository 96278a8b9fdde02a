"""A server with worker processes as its users run it, seen from outside: who its workers are, whom they serve, what it counts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from benchmarks.process import children
from stepstream_proto.v1 import model_pb2, model_pb2_grpc
from support import planted
from support.process import COMMAND, ServerProcess, server_process
from support.tenants import showing

PATIENCE = 30.0  # seconds: how long a test waits for what must come, before it fails


class WorkerProcess:
    """One worker, known by a handle that no later process can be mistaken for."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.handle = os.pidfd_open(pid)

    def send_signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self.handle, number)

    def kill(self) -> None:
        """Ends it if it still runs."""
        with suppress(ProcessLookupError):
            self.send_signal(signal.SIGKILL)
        os.close(self.handle)

    async def ended(self) -> None:
        """Waits for its end."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.handle, ended.set)
        try:
            async with asyncio.timeout(PATIENCE):
                await ended.wait()
        finally:
            loop.remove_reader(self.handle)

    def mapped(self) -> str:
        """The files that it has in memory."""
        return Path(f"/proc/{self.pid}/maps").read_text()

    def connections(self, port: int) -> set[int]:
        """The ports of the clients that are connected to it; none once it has died."""
        mine = set()
        for entry in self._descriptors():
            with suppress(OSError):  # closed meanwhile
                mine.add(os.readlink(entry))
        found = set()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                _, local, remote, state, *rest = line.split()
                if state == "01" and _port(local) == port and f"socket:[{rest[5]}]" in mine:
                    found.add(_port(remote))
        return found

    def _descriptors(self) -> list[Path]:
        try:
            return list(Path(f"/proc/{self.pid}/fd").iterdir())
        except OSError:  # it has died
            return []


@dataclass
class Connection:
    """A connection of a client, and who serves it."""

    channel: grpc.aio.Channel
    worker: WorkerProcess


@dataclass
class WorkingServer:
    """A running server with workers."""

    server: ServerProcess
    seen: dict[int, WorkerProcess] = field(default_factory=dict)
    channels: list[grpc.aio.Channel] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)  # of its log, as far as they were waited for
    connecting: asyncio.Lock = field(default_factory=asyncio.Lock)
    token: str = ""  # that a connection shows to be let in, if it must

    @property
    def port(self) -> int:
        return int(self.server.listen.rpartition(":")[2])

    def children(self) -> list[int]:
        """The processes that it has started and that run."""
        return children(self.server.process.pid)

    def workers(self) -> list[WorkerProcess]:
        """Those that run now."""
        for pid in (pids := self.children()):
            if pid not in self.seen:
                self.seen[pid] = WorkerProcess(pid)
        return [self.seen[pid] for pid in pids]

    async def connect(self) -> Connection:
        """Another connection. Raises AioRpcError where its worker dies over it."""
        async with self.connecting:
            before = {worker: worker.connections(self.port) for worker in self.workers()}
            channel = grpc.aio.insecure_channel(self.server.listen, options=[("grpc.use_local_subchannel_pool", 1)])
            self.channels.append(channel)
            models = model_pb2_grpc.ModelServiceStub(showing(channel, token=self.token))
            await models.ListModels(model_pb2.ListModelsRequest(), wait_for_ready=True)
            found = [each for each in self.workers() if each.connections(self.port) - before.get(each, set())]
        if not found:
            raise EOFError("its worker has died already")
        return Connection(channel, found[0])

    async def connect_to(self, worker: WorkerProcess) -> Connection:
        """Another connection to this worker: the system decides, until it decides so."""
        while True:
            connection = await self.connect()
            if connection.worker is worker:
                return connection
            await connection.channel.close()
            self.channels.remove(connection.channel)

    async def connect_to_each(self) -> list[Connection]:
        """A connection to every worker."""
        return [await self.connect_to(worker) for worker in self.workers()]

    async def logged(self, event: str, **fields: object) -> dict[str, Any]:
        """Waits for the next event of this kind in its log, and with these fields."""
        assert self.server.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while line := await self.server.process.stderr.readline():
                self.events.append(json.loads(line))
                if {"event": event, **fields}.items() <= self.events[-1].items():
                    return self.events[-1]
        raise EOFError(f"the log has ended without {event!r}")

    async def kill(self, worker: WorkerProcess) -> WorkerProcess:
        """Kills a worker; returns its replacement once it serves."""
        worker.send_signal(signal.SIGKILL)
        replaced = await self.logged("worker_replaced")
        return next(each for each in self.workers() if each.pid == replaced["pid"])

    async def metrics(self) -> dict[str, float]:
        """What Prometheus sees: values by name and labels."""
        return await scraped(self.server.metrics)

    async def metrics_when(self, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
        """The same as soon as it is so."""
        async with asyncio.timeout(PATIENCE):
            while not condition(seen := await self.metrics()):
                pass
        return seen

    async def nobody_left(self) -> None:
        """Waits for the end of all workers that were ever seen."""
        for worker in self.seen.values():
            await worker.ended()


@asynccontextmanager
async def working_server(
    models: Path, workers: int, *flags: str, program: Sequence[str] = COMMAND, own_group: bool = False, token: str = ""
) -> AsyncIterator[WorkingServer]:
    """Serves until the block ends; then, or when it has been ended, none of its workers may be left. token: that its connections
    show to be let in, if they must."""
    async with server_process(models, "--workers", str(workers), *flags, program=program, own_group=own_group) as server:
        working = WorkingServer(server, token=token)
        assert len(working.workers()) == workers
        try:
            yield working
        finally:
            for channel in working.channels:
                await channel.close()
            if server.process.returncode is None:
                working.workers()
                server.process.kill()
                await server.process.wait()
            try:
                await working.nobody_left()
            finally:
                for worker in working.seen.values():
                    worker.kill()


async def all_ended(processes: Sequence[WorkerProcess]) -> None:
    """Waits for the end of each; those that do not end are killed."""
    try:
        for each in processes:
            await each.ended()
    finally:
        for each in processes:
            each.kill()


async def scraped(url: str) -> dict[str, float]:
    """A page of metrics: values by name and labels."""
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=PATIENCE).read().decode())
    planted.check(page)
    lines = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
