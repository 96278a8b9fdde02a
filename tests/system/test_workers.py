"""Worker processes, on the real command: any of them serves any session, and none of them is missed when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest

from benchmarks.process import children
from stepstream import Client, ClientOptions
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, session_pb2, session_pb2_grpc
from support import broken_workers, crashing_server, quick_server
from support.health import NOT_SERVING, SERVING, Watch, health
from support.process import COMMAND, launch, server_process
from support.wire import WireStream, block, read_to_drain, read_to_end, steps_of, u32, u64
from support.workers import Connection, WorkerProcess, WorkingServer, working_server

RPCS = 'stepstream_rpc_handled_total{code="%s",method="%s",service="stepstream.v1.%s"}'
MODEL = '{model="small",version="1"}'
USED_SLOTS = 'stepstream_slots{model="small",state="used",version="1"}'


READINGS = np.random.default_rng(0).normal(size=(4096, 2)).astype(np.float32)


def inputs(seed: int, first: int, count: int) -> np.ndarray:
    """Readings of a session's steps from `first` on, the same however they are cut."""
    return READINGS.take(range(1000 * seed + first, 1000 * seed + first + count), axis=0, mode="wrap")


def step_of(seed: int, seq: int, handle: int = 0) -> inference_pb2.StreamRequest:
    """One step of a session."""
    return block([handle], [seq], [1], inputs(seed, seq, 1))


def sessions(connection: Connection) -> session_pb2_grpc.SessionServiceStub:
    """Calls about sessions, on a connection."""
    return session_pb2_grpc.SessionServiceStub(connection.channel)


async def undisturbed(channel: grpc.aio.Channel, seed: int, count: int) -> bytes:
    """What a session gives that takes these steps one after the other, on one stream that nothing happens to."""
    async with WireStream(channel) as stream:
        await stream.open("small", [0])
        found = b""
        for start in range(0, count, 500):
            length = min(500, count - start)
            await stream.send(block([0], [start], [length], inputs(seed, start, length)))
            await stream.send(
                inference_pb2.StreamRequest(acknowledge=inference_pb2.Acknowledge(handles=u32([0]), counts=u64([start])))
            )
            while len(found) < 4 * (start + length):
                answers = (await stream.receive()).answers
                assert not answers.errors, answers.errors
                found += answers.outputs[0]
        await stream.send(inference_pb2.StreamRequest(detach=inference_pb2.Detach(handles=u32([0]), close=True)))
        await stream.receive()
        return found


class Stepper:
    """A client that steps a session without end, a few steps ahead of their answers, and attaches it again if it must."""

    AHEAD = 4

    def __init__(self, running: WorkingServer, seed: int, worker: WorkerProcess, pace: asyncio.Event) -> None:
        """pace: set while it shall step."""
        self.seed = seed
        self.worker = worker  # who serves it
        self.outputs = b""
        self.broken = 0  # how often its stream has ended
        self._running = running
        self._session: inference_pb2.AttachedSession | None = None
        self._sent = 0
        self._pace = pace
        self._progress = asyncio.Event()
        self._wanted: WorkerProcess | None = worker

    @property
    def applied(self) -> int:
        """Answered steps."""
        return len(self.outputs) // 4

    async def advance(self) -> None:
        """Waits until ten more are answered."""
        until = self.applied + 10
        while self.applied < until:
            self._progress.clear()
            await self._progress.wait()

    async def move(self, worker: WorkerProcess) -> None:
        """Has it hang up and go on with another worker."""
        self._wanted = worker
        while self.worker is not worker:
            await self.advance()

    async def close(self, channel: grpc.aio.Channel) -> None:
        """Ends its session."""
        assert self._session is not None
        request = session_pb2.CloseSessionRequest(model="small", id=self._session.id, secret=self._session.secret)
        closed = await session_pb2_grpc.SessionServiceStub(channel).CloseSession(request)
        assert self.applied <= closed.next_seq <= self._sent

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            try:
                wanted, self._wanted = self._wanted, None
                connection = await (self._running.connect_to(wanted) if wanted else self._running.connect())
                async with WireStream(connection.channel) as stream:
                    await self._hold(stream)
                    self.worker = connection.worker
                    while self._wanted is None:
                        await self._pace.wait()
                        await self._step_on(stream)
                await connection.channel.close()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, EOFError):  # InvalidStateError: it ended under a write
                self.broken += 1

    async def _hold(self, stream: WireStream) -> None:
        """Opens its session, or attaches it again."""
        if self._session is None:
            (self._session,) = await stream.open("small", [0])
            return
        (attached,) = (await stream.attach("small", 0, self._session.id, self._session.secret, self.applied)).sessions
        assert not attached.error.reason, attached
        assert self.applied <= attached.next_seq <= self._sent
        self._sent = attached.next_seq

    async def _step_on(self, stream: WireStream) -> None:
        """Sends what it may be ahead and hears some of it."""
        while self._sent < self.applied + self.AHEAD:
            request = block([0], [self._sent], [1], inputs(self.seed, self._sent, 1))
            request.block.acked = u64([self.applied])
            self._sent += 1  # before: what fails or is cancelled halfway may have gone out
            await stream.send(request)
        answers = (await stream.receive()).answers
        assert not answers.errors, answers.errors
        steps = len(answers.outputs[0]) // 4
        assert steps_of(answers)[1].tolist() == [*range(self.applied, self.applied + steps)]
        self.outputs += answers.outputs[0]
        self._progress.set()


async def advance(steppers: Sequence[Stepper]) -> None:
    """Waits until all have gone on."""
    await asyncio.gather(*(each.advance() for each in steppers))


async def spread(running: WorkingServer, steppers: Sequence[Stepper]) -> None:
    """Has as many steppers with each worker."""
    workers = running.workers()
    room = {worker: -(-len(steppers) // len(workers)) for worker in workers}
    homeless = []
    for stepper in steppers:
        if room.get(stepper.worker, 0):
            room[stepper.worker] -= 1
        else:
            homeless.append(stepper)
    places = [worker for worker, count in room.items() for _ in range(count)]
    await asyncio.gather(*[stepper.move(worker) for stepper, worker in zip(homeless, places, strict=False)])


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_fifty_kills_under_load(models: Path) -> None:
    """Clients of other workers never notice; those of the killed one go on elsewhere, bit for bit as if nothing had been."""
    async with working_server(models, 2, program=[quick_server.__file__]) as running:
        async with asyncio.TaskGroup() as tasks:
            pace = asyncio.Event()
            pace.set()
            steppers = [Stepper(running, seed, worker, pace) for seed, worker in enumerate(running.workers() * 2)]
            going = [tasks.create_task(stepper.run()) for stepper in steppers]
            await advance(steppers)
            for number in range(50):
                victim = running.workers()[number % 2]
                others = [(each, each.broken) for each in steppers if each.worker is not victim]
                assert len(others) == 2
                victim.send_signal(signal.SIGKILL)
                await advance(steppers)
                assert [each.broken for each, _ in others] == [before for _, before in others]
                if number >= 10:
                    pace.clear()  # the first ones are replaced under load, too; the others have the machine for themselves
                await running.logged("worker_replaced")
                pace.set()
                await spread(running, steppers)
                await advance(steppers)
            for task in going:
                task.cancel()
        assert sum(each.broken for each in steppers) == 100
        await running.metrics_when(lambda seen: seen["stepstream_streams" + MODEL] == 0)
        async with grpc.aio.insecure_channel(running.server.listen) as channel:
            for stepper in steppers:
                assert await undisturbed(channel, stepper.seed, stepper.applied) == stepper.outputs
                await stepper.close(channel)
        seen = await running.metrics()
        assert seen["stepstream_workers"] == 2
        assert seen["stepstream_worker_deaths_total"] == 50
        assert seen["stepstream_sessions_open" + MODEL] == seen[USED_SLOTS] == seen["stepstream_pending_steps" + MODEL] == 0


async def test_the_python_client_goes_on(models: Path) -> None:
    """Each of its steps is answered once and in order, however often who serves it is killed."""
    quick = ClientOptions(reconnect_first_seconds=0.01, reconnect_most_seconds=0.2)
    async with (
        working_server(models, 2, program=[quick_server.__file__]) as running,
        Client(running.server.listen, quick) as client,
    ):
        session, twin = await client.open_session("small"), await client.open_session("small")
        made, enough = asyncio.Event(), asyncio.Event()

        async def step_on() -> bytes:
            found, seq = b"", 0
            while not enough.is_set():
                answers = await asyncio.gather(*(session.step(inputs(3, seq + ahead, 1)[0]) for ahead in range(4)))
                found, seq = found + b"".join(each["output"].tobytes() for each in answers), seq + 4
                made.set()
            return found

        going = asyncio.create_task(step_on())
        for _ in range(3):
            for worker in running.workers():
                made.clear()
                await made.wait()
                await running.kill(worker)
        enough.set()
        outputs = await going
        expected = b""
        for start in range(0, len(outputs) // 4, 500):
            expected += (await twin.chunk(inputs(3, start, min(500, len(outputs) // 4 - start))))["output"].tobytes()
        assert outputs == expected
        assert (await running.metrics())["stepstream_worker_deaths_total"] == 6


async def test_any_worker_serves_any_session(models: Path) -> None:
    """Opened on a connection of one, stepped on another's and on a stream of a third, and closed where it was opened."""
    async with working_server(models, 3) as running:
        first, second, third = await running.connect_to_each()
        opened = await sessions(first).OpenSession(session_pb2.OpenSessionRequest(model="small", id="a"))
        request = inference_pb2.StepRequest(model="small", session_id="a", secret=opened.secret)
        request.inputs["input"].CopyFrom(inference_pb2.Values(numbers=inputs(0, 0, 1)[0].tolist()))
        stepped = await inference_pb2_grpc.InferenceServiceStub(second.channel).Step(request)
        found = np.array(stepped.outputs["output"].numbers, np.float32).tobytes()
        async with WireStream(third.channel) as stream, WireStream(second.channel) as other:
            (attached,) = (await stream.attach("small", 7, "a", opened.secret, acked=1)).sessions
            assert attached.next_seq == 1
            await stream.send(step_of(0, 1, handle=7))
            found += (await stream.receive()).answers.outputs[0]
            await other.attach("small", 9, "a", opened.secret, acked=2)
            assert (await stream.receive()).detached.handles == u32([7])
            await other.send(step_of(0, 2, handle=9))
            found += (await other.receive()).answers.outputs[0]
            listed = await sessions(third).ListSessions(session_pb2.ListSessionsRequest())
            assert [(each.id, each.next_seq, each.attached) for each in listed.sessions] == [("a", 3, True)]
            await sessions(first).CloseSession(session_pb2.CloseSessionRequest(model="small", id="a", secret=opened.secret))
            assert (await other.receive()).detached.handles == u32([9])
        assert found == await undisturbed(first.channel, 0, 3)
        with pytest.raises(grpc.aio.AioRpcError, match="SESSION_CLOSED|was closed"):
            await sessions(third).GetSession(session_pb2.GetSessionRequest(model="small", id="a"))


async def test_one_page_of_metrics_for_all(models: Path) -> None:
    """Calls are summed over workers, and are there as soon as they have been answered."""
    async with working_server(models, 2) as running:
        connections = await running.connect_to_each()
        for total in range(1, 6):
            for connection in connections * total:
                await sessions(connection).ListSessions(session_pb2.ListSessionsRequest())
                with pytest.raises(grpc.aio.AioRpcError):
                    await sessions(connection).GetSession(session_pb2.GetSessionRequest(model="small", id="nobody"))
            many = await asyncio.gather(*[running.metrics() for _ in range(3)])
            expected = sum(range(1, total + 1)) * 2
            for seen in many:
                assert seen[RPCS % ("OK", "ListSessions", "SessionService")] == expected
                assert seen[RPCS % ("NOT_FOUND", "GetSession", "SessionService")] == expected
        seen = await running.metrics()
        assert seen["stepstream_workers"] == 2
        for worker in range(2):
            assert seen[f'stepstream_worker_cpu_seconds_total{{worker="{worker}"}}'] > 0
            assert seen[f'stepstream_worker_resident_memory_bytes{{worker="{worker}"}}'] > 1 << 20


@pytest.mark.parametrize(
    ("number", "to_all"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)], ids=["one", "group", "ctrl-c"]
)
async def test_a_drain_is_of_the_whole_tree(models: Path, number: signal.Signals, to_all: bool) -> None:
    """Every step that any worker has read is answered, each stream hears Drain and ends with OK, and nobody is left."""
    async with working_server(models, 2, own_group=True) as running:
        connections = await running.connect_to_each()
        streams = [WireStream(each.channel) for each in connections * 2]
        watches = [Watch(each.channel, "readiness") for each in connections]
        assert [await watch.status() for watch in watches] == [SERVING] * 2
        told = []
        for stream in streams:
            await stream.open("small", range(4))
            await stream.send(block(range(4), [0] * 4, [1000] * 4, inputs(0, 0, 4000)))
            await stream.send(inference_pb2.StreamRequest(reset=inference_pb2.Reset(handles=u32([60_000]), seqs=u64([0]))))
            messages = [await stream.receive()]
            while not messages[-1].answers.errors:  # refused at once: then the block before it was read too
                messages.append(await stream.receive())
            told.append(messages)
        if to_all:
            os.killpg(running.server.process.pid, number)
            for worker in running.workers():
                worker.send_signal(number)  # which have a session of their own
        else:
            running.server.process.send_signal(number)
        for watch in watches:
            assert await watch.status() == NOT_SERVING
        for stream, messages in zip(streams, told, strict=True):
            more = await read_to_drain(stream)
            rest, end = await read_to_end(stream)
            assert "StatusCode.OK" in end
            assert "drain" not in [each.WhichOneof("message") for each in rest]
            assert sum(len(steps_of(each.answers)[0]) for each in [*messages, *more, *rest] if each.answers.handles) == 4000
        code, log = await running.server.ended()
        assert code == 0
        assert [json.loads(line)["event"] for line in log.splitlines()][-2:] == ["draining", "drained"]
        assert json.loads(log.splitlines()[-1])["complete"]
        await running.nobody_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_while_workers_begin(models: Path, number: signal.Signals) -> None:
    """Though it is sent to the whole group of processes: the server ends well, without a word of complaint."""
    process = await launch(models, "--workers", "2", own_group=True)
    while [os.getpgid(pid) == pid for pid in children(process.pid)] != [True, True]:  # noqa: ASYNC110  # nobody sets an event
        await asyncio.sleep(0)
    os.killpg(process.pid, number)
    _, stderr = await process.communicate()
    assert process.returncode == 0, stderr
    assert b"Traceback" not in stderr


async def test_workers_end_with_the_process_that_computes(models: Path) -> None:
    """After its SIGKILL every stream hears so, workers end by themselves, and the port is free."""
    async with working_server(models, 2) as running:
        connections = await running.connect_to_each()
        holding = [WireStream(each.channel) for each in connections]
        idle = [WireStream(each.channel) for each in connections]
        for stream in holding:
            await stream.open("small", [0])
        for stream in idle:
            await stream.send(inference_pb2.StreamRequest(reset=inference_pb2.Reset(handles=u32([1]), seqs=u64([0]))))
            assert (await stream.receive()).answers.errors
        running.server.process.kill()
        for stream in holding:
            _, end = await read_to_end(stream)
            assert "UNAVAILABLE" in end
            assert "the process that computes has ended" in end
        for stream in idle:
            _, end = await read_to_end(stream)
            assert "UNAVAILABLE" in end
        await running.nobody_left()
        async with server_process(models, "--listen", running.server.listen, "--workers", "0") as successor:
            assert successor.listen == running.server.listen


async def test_an_engine_crash_is_told_by_all_workers(models: Path) -> None:
    """To every stream of every worker; health turns NOT_SERVING, liveness included, and the exit code is 1."""
    async with working_server(models, 2, program=[crashing_server.__file__]) as running:
        connections = await running.connect_to_each()
        streams = [WireStream(each.channel) for each in connections * 2]
        watches = [Watch(each.channel, "liveness") for each in connections]
        for watch in watches:
            assert await watch.status() == SERVING
        for stream in streams:
            await stream.open("small", [0])
        await streams[0].send(block([0], [0], [1], np.full((1, 2), 13, np.float32)))
        for stream in streams:
            messages, end = await read_to_end(stream)
            assert not messages
            assert "the engine of model 'small' has failed" in end
        for watch in watches:
            assert await watch.status() == NOT_SERVING
        code, log = await running.server.ended()
        assert code == 1
        events = [json.loads(line)["event"] for line in log.splitlines()]
        assert "engine_crashed" in events
        assert "worker_died" not in events
        await running.nobody_left()


async def test_a_server_whose_workers_cannot_begin(models: Path) -> None:
    """It says why and ends with 1, whether the port is taken, the address is not this machine's, or a worker dies at once."""
    async with working_server(models, 2) as running:
        for address in (running.server.listen, "192.0.2.1:0"):
            assert "cannot listen on" in await refusal(models, "--listen", address)
        assert len(running.children()) == 2
    assert "a worker process ended before it listened" in await refusal(models, program=[broken_workers.__file__])


async def refusal(models: Path, *flags: str, program: Sequence[str] = COMMAND) -> str:
    """What a server that cannot begin says."""
    process = await launch(models, "--workers", "2", *flags, program=program, own_group=True)
    stdout, stderr = await process.communicate()  # to the end: so long as somebody has its stderr open
    assert (process.returncode, stdout) == (1, b"")
    assert b"Traceback" not in stderr
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    return stderr.decode()


async def test_without_workers_there_is_one_process(models: Path) -> None:
    """It serves, and has no children."""
    async with working_server(models, 0) as running, grpc.aio.insecure_channel(running.server.listen) as channel:
        assert await health(channel, "readiness") == SERVING
        assert not running.children()
        assert (await running.metrics())["stepstream_workers"] == 0


async def test_a_worker_is_light(models: Path) -> None:
    """It has loaded nothing that computes."""
    async with working_server(models, 1) as running:
        (worker,) = running.workers()
        files = worker.mapped()
        assert "grpc" in files
        assert not [name for name in ("torch", "onnxruntime") if name in files]


async def test_a_worker_that_stands_still(models: Path) -> None:
    """Nobody watches it, as under a debugger. It holds up neither the others nor the metrics for long, and then goes on where it
    stood, with all that it counted."""
    async with working_server(models, 2, "--worker_heartbeat_seconds", "0") as running:
        still, other = await running.connect_to_each()
        async with WireStream(still.channel) as waiting, WireStream(other.channel) as stream:
            await waiting.open("small", [0])
            await stream.open("small", [0])
            await sessions(still).ListSessions(session_pb2.ListSessionsRequest())
            still.worker.send_signal(signal.SIGSTOP)
            await waiting.send(step_of(0, 0))
            for seq in range(50):
                await stream.send(step_of(1, seq))
                assert (await stream.receive()).answers.first_seqs == u64([seq])
            await sessions(other).ListSessions(session_pb2.ListSessionsRequest())
            seen = await running.metrics()
            assert seen[RPCS % ("OK", "ListSessions", "SessionService")] == 1
            assert seen["stepstream_workers"] == 2
            still.worker.send_signal(signal.SIGCONT)
            assert (await waiting.receive()).answers.first_seqs == u64([0])
            for count in range(3, 6):
                await sessions(still).ListSessions(session_pb2.ListSessionsRequest())
                seen = await running.metrics()
                assert seen[RPCS % ("OK", "ListSessions", "SessionService")] == count
            assert seen["stepstream_worker_deaths_total"] == 0


async def test_a_worker_that_hangs(models: Path) -> None:
    """A worker that hangs is replaced. A drain ends without it, and well."""
    async with working_server(models, 2, "--worker_heartbeat_seconds", "0.2") as running:
        first, _ = running.workers()
        first.send_signal(signal.SIGSTOP)
        place = (await running.logged("worker_hangs", pid=first.pid))["worker"]
        await running.logged("worker_died", pid=first.pid, code=-signal.SIGKILL)
        await running.logged("worker_replaced", worker=place)
        await first.ended()
        seen = await running.metrics_when(lambda seen: seen["stepstream_workers"] == 2)
        assert seen["stepstream_worker_deaths_total"] >= 1
        second, *_ = running.workers()
        second.send_signal(signal.SIGSTOP)
        running.server.process.send_signal(signal.SIGTERM)
        await running.logged("worker_hangs", pid=second.pid)
        code, log = await running.server.ended()
        assert code == 0
        assert json.loads(log.splitlines()[-1])["event"] == "drained"
        await running.nobody_left()


async def test_limits_are_shared_out(models: Path) -> None:
    """Of five streams in all each of two workers takes three at most."""
    async with working_server(models, 2, "--door.max_streams", "5") as running:
        for connection in await running.connect_to_each():
            streams = [WireStream(connection.channel) for _ in range(3)]
            for stream in streams:
                await stream.open("small", [])
            _, end = await read_to_end(WireStream(connection.channel))
            assert "all 3 streams are in use" in end
