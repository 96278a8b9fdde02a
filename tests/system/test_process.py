"""The server as a process: started, used, stopped, killed, crashed, and refusing to start."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest

from stepstream_proto.v1 import inference_pb2
from stepstream_server import bundles
from support import crashing_server
from support.health import NOT_SERVING, SERVING, Watch, health
from support.process import FLAGS, launch, server_process
from support.spoil import edit
from support.wire import WireStream, block, read_to_drain, read_to_end, steps_of, u32, u64


async def test_a_server_serves_until_it_is_told_to_stop(models: Path) -> None:
    """It prints where it listens, is healthy, steps a session, shows it to Prometheus, and ends well on SIGTERM."""
    async with server_process(models) as server, grpc.aio.insecure_channel(server.listen) as channel:
        for name in ("", "liveness", "readiness", "stepstream.v1.InferenceService"):
            assert await health(channel, name) == SERVING
        async with WireStream(channel) as stream:
            (session,) = await stream.open("small", [0])
            assert session.next_seq == 0
            await stream.send(block([0], [0], [3], np.ones((3, 2), np.float32)))
            answers = (await stream.receive()).answers
            assert [seq for _, seq in zip(*steps_of(answers), strict=True)] == [0, 1, 2]
            outputs = np.frombuffer(answers.outputs[0], "<f4")
            assert np.isfinite(outputs).all()
            assert len(set(outputs.tolist())) == 3
        metrics = await asyncio.to_thread(lambda: urllib.request.urlopen(server.metrics).read().decode())
        assert 'stepstream_steps_total{model="small",version="1"} 3.0' in metrics
        server.process.send_signal(signal.SIGTERM)
        code, log = await server.ended()
    assert code == 0
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events == ["model_warm", "listening", "draining", "drained"]


@pytest.mark.parametrize("flags", FLAGS.values(), ids=list(FLAGS))
async def test_sigterm_answers_what_was_accepted(models: Path, flags: list[str]) -> None:
    """Every step that was read is answered, the stream hears Drain and ends with OK, and a health watch does not hold it up."""
    async with server_process(models, *flags) as server, grpc.aio.insecure_channel(server.listen) as channel:
        watch = Watch(channel, "readiness")
        assert await watch.status() == SERVING
        async with WireStream(channel) as stream:
            await stream.open("small", range(8))
            readings = np.random.default_rng(0).normal(size=(8 * 1000, 2)).astype(np.float32)
            await stream.send(block(range(8), [0] * 8, [1000] * 8, readings))
            nobody = inference_pb2.Reset(handles=u32([60_000]), seqs=u64([0]))
            await stream.send(inference_pb2.StreamRequest(reset=nobody))
            messages = [await stream.receive()]
            while not messages[-1].answers.errors:  # refused at once: then the block before it was read too
                messages.append(await stream.receive())
            server.process.send_signal(signal.SIGTERM)
            assert await watch.status() == NOT_SERVING
            messages += await read_to_drain(stream)
            rest, end = await read_to_end(stream)
        code, _ = await server.ended()
    assert "StatusCode.OK" in end
    assert code == 0
    assert "drain" not in [each.WhichOneof("message") for each in rest]
    assert sum(len(steps_of(each.answers)[0]) for each in [*messages, *rest] if each.answers.handles) == 8000


async def test_a_killed_server_leaves_its_port_free(models: Path) -> None:
    """SIGKILL breaks the stream; another server on the same address serves at once."""
    async with server_process(models) as server, grpc.aio.insecure_channel(server.listen) as channel:
        async with WireStream(channel) as stream:
            await stream.open("small", [0])
            server.process.kill()
            _, end = await read_to_end(stream)
            assert "UNAVAILABLE" in end
        assert (await server.ended())[0] == -signal.SIGKILL
        async with server_process(models, "--listen", server.listen) as successor:
            assert successor.listen == server.listen


async def test_an_engine_crash_ends_the_process(models: Path) -> None:
    """Whoever waits is told, health turns NOT_SERVING, liveness included, and the exit code is 1."""
    program = [crashing_server.__file__]
    async with server_process(models, program=program) as server, grpc.aio.insecure_channel(server.listen) as channel:
        watch = Watch(channel, "liveness")
        assert await watch.status() == SERVING
        async with WireStream(channel) as stream, WireStream(channel) as other:
            await stream.open("small", [0])
            await other.open("small", [0])
            await stream.send(block([0], [0], [1], np.full((1, 2), 13, np.float32)))
            for each in (stream, other):
                messages, end = await read_to_end(each)
                assert not messages
                assert "the engine of model 'small' has failed" in end
        assert await watch.status() == NOT_SERVING
        code, log = await server.ended()
    assert code == 1
    crash = next(event for event in map(json.loads, log.splitlines()) if event["event"] == "engine_crashed")
    assert "the device fell off the bus" in crash["exception"]


@pytest.fixture
def one_broken(tmp_path: Path) -> Path:
    """A folder of a bundle `good`, a bundle `wrong` and what is none."""
    for name in ("good", "wrong"):
        bundles.init_model(tmp_path / name, cell="gru", inputs=1, hidden=4, layers=1, outputs=1, seed=0)
    edit(tmp_path / "wrong", "cell.hidden_size", 0)
    (tmp_path / "lost+found").mkdir()
    return tmp_path


async def test_a_broken_bundle_does_not_stop_the_others(one_broken: Path) -> None:
    """The file and the field are in the log and it shows in the metrics; what is no bundle is a line too."""
    async with server_process(one_broken) as server, grpc.aio.insecure_channel(server.listen) as channel:
        async with WireStream(channel) as stream:
            assert len(await stream.open("good", [0])) == 1
        metrics = await asyncio.to_thread(lambda: urllib.request.urlopen(server.metrics).read().decode())
        assert "\nstepstream_broken_bundles 1.0\n" in metrics
        server.process.send_signal(signal.SIGTERM)
        code, log = await server.ended()
    assert code == 0
    events = {event["event"]: event for event in map(json.loads, log.splitlines())}
    assert (events["passed_over"]["name"], events["passed_over"]["level"]) == ("lost+found", "info")
    assert (events["bundle_broken"]["name"], events["bundle_broken"]["level"]) == ("wrong", "error")
    assert events["bundle_broken"]["error"].startswith("wrong/model.json: cell.hidden_size: ")


async def test_a_broken_bundle_stops_a_strict_server(one_broken: Path) -> None:
    """The file and the field are named, nothing listens, and the exit code is 1."""
    process = await launch(one_broken, "--strict_models", "true")
    stdout, stderr = await process.communicate()
    assert (process.returncode, stdout) == (1, b"")
    assert b"wrong/model.json" in stderr
    assert b"hidden_size" in stderr
    assert b"Traceback" not in stderr


async def test_a_taken_address_is_not_shared(models: Path) -> None:
    """A second server on the same address says in one line whose it is and ends with 1; the first is not disturbed."""
    async with server_process(models) as server:
        metrics = server.metrics.split("/")[2]
        for setting, address, workers in (("listen", server.listen, "0"), ("metrics", metrics, "0"), ("metrics", metrics, "2")):
            process = await launch(models, f"--{setting}", address, "--workers", workers)
            stdout, stderr = await process.communicate()
            assert (process.returncode, stdout) == (1, b"")
            assert stderr.decode().splitlines()[-1].startswith(f"{setting}: cannot listen on {address}: ")
            assert b"Traceback" not in stderr
        async with grpc.aio.insecure_channel(server.listen) as channel, WireStream(channel) as stream:
            assert len(await stream.open("small", [0])) == 1
