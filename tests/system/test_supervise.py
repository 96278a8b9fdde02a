"""A server that is started again when it has failed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import grpc
import numpy as np

from benchmarks.process import children
from support import crashing_server
from support.health import SERVING, health
from support.process import launch, server_process
from support.wire import WireStream, block
from support.workers import WorkerProcess, WorkingServer, all_ended


async def test_an_engine_that_crashes_is_served_again_at_the_same_address(models: Path) -> None:
    """By a new process; what it was asked to do before does not matter to it. Told to stop, all of it ends well."""
    program = [crashing_server.__file__]
    async with server_process(models, "--on_failure", "restart", program=program) as server:
        async with grpc.aio.insecure_channel(server.listen) as channel, WireStream(channel) as stream:
            await stream.open("small", [0])
            await stream.send(block([0], [0], [1], np.full((1, 2), 13, np.float32)))
            before = server.listen, server.metrics
            await server.listening()
        assert (server.listen, server.metrics) == before
        async with grpc.aio.insecure_channel(server.listen) as channel:
            assert await health(channel, "") == SERVING
            async with WireStream(channel) as stream:
                assert len(await stream.open("small", [0])) == 1
        server.process.send_signal(signal.SIGTERM)
        code, log = await server.ended()
    assert code == 0
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events.count("engine_crashed") == 1
    assert events.count("server_failed") >= 1
    assert events[-1] == "drained"


async def test_a_server_that_is_killed_is_started_again(models: Path) -> None:
    """Its workers hear of it, end, and leave the address to its successor."""
    async with server_process(models, "--on_failure", "restart", "--workers", "2") as server:
        (serving,) = WorkingServer(server).children()
        os.kill(serving, signal.SIGKILL)  # ours, and not waited for by anybody but its parent
        before = server.listen
        await server.listening()
        assert server.listen == before
        async with grpc.aio.insecure_channel(server.listen) as channel, WireStream(channel) as stream:
            assert len(await stream.open("small", [0])) == 1
        server.process.send_signal(signal.SIGTERM)
        assert (await server.ended())[0] == 0


async def test_a_server_ends_with_the_process_in_front_of_it(models: Path) -> None:
    """Its workers do too, even one that hangs, and a new start has the addresses."""
    async with server_process(models, "--on_failure", "restart", "--workers", "2") as server:
        (serving,) = children(server.process.pid)
        left = [WorkerProcess(pid) for pid in (serving, *children(serving))]
        assert len(left) == 3
        left[1].send_signal(signal.SIGSTOP)
        server.process.kill()
        await all_ended(left)
        addresses = ("--listen", server.listen, "--metrics", server.metrics.split("/")[2])
        async with server_process(models, *addresses, "--workers", "0") as successor:
            assert successor.listen == server.listen


async def test_a_server_that_cannot_start_is_not_started_again(models: Path, tmp_path: Path) -> None:
    """Wrong settings and wrong models do not mend themselves."""
    (tmp_path / "nothing").mkdir()
    for folder, flags, code in ((models, ["--door.drain_seconds", "-1"], 2), (tmp_path / "nothing", [], 1)):
        process = await launch(folder, "--on_failure", "restart", *flags)
        _, stderr = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == code
        assert b"server_failed" not in stderr


async def test_ctrl_c_drains(models: Path) -> None:
    """A terminal sends it to the whole group of processes; the server is told once, and ends well."""
    async with server_process(models, "--on_failure", "restart", own_group=True) as server:
        os.killpg(server.process.pid, signal.SIGINT)
        code, log = await server.ended()
    assert code == 0
    assert json.loads(log.splitlines()[-1])["event"] == "drained"
