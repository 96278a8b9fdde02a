"""NVIDIA's load generator, unmodified, against a server process: to it the server is a Triton model with a sequence batcher."""

from __future__ import annotations

import asyncio
import re
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from benchmarks.analyzer import environment
from benchmarks.fetch_perf_analyzer import PROGRAM
from support.oip.scrape import sample
from support.perf_analyzer import require_perf_analyzer
from support.process import ServerProcess, server_process

SEQUENCES = ("--sequence-length", "10", "--sequence-length-variation", "50")
WINDOWS = ("-p", "150", "-r", "3", "-s", "1000")  # three short ones, whatever they differ by


async def analyze(server: ServerProcess, *flags: str) -> int:
    """One run; returns the requests that were answered in its windows. Fails if perf_analyzer does."""
    command = (str(PROGRAM), "-m", "small", "-u", server.listen, "-i", "grpc", *SEQUENCES, *WINDOWS, *flags)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=environment())
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0, (stdout + stderr).decode()
    answered = re.search(r"Request count: (\d+)", stdout.decode())
    assert answered, stdout.decode()
    return int(answered[1])


@pytest.mark.parametrize(
    "flags",
    [
        ("--streaming", "--concurrency-range", "8"),
        ("--concurrency-range", "8"),
        ("--streaming", "--request-rate-range", "200", "--num-of-sequences", "8", "--sequence-id-range", "1:17"),
    ],
    ids=["streams", "unary", "rate, ids used again"],
)
async def test_sequences_of_perf_analyzer_become_sessions(models: Path, flags: tuple[str, ...]) -> None:
    """Every request is answered as a step, the server's own statistics agree, and every session that was opened was closed."""
    require_perf_analyzer()
    async with server_process(models) as server:
        answered = await analyze(server, *flags)
        labels = {"model": "small", "version": "1"}
        steps = await sample(server.metrics, "stepstream_steps_total", **labels)
        opened = await sample(server.metrics, "stepstream_sessions_opened_total", **labels, origin="OPENED")
        closed = await sample(server.metrics, "stepstream_sessions_closed_total", **labels, reason="CLOSED")
        assert await sample(server.metrics, "stepstream_sessions_open", **labels) == 0
    assert answered > 0
    assert opened == closed
    assert steps is not None and opened is not None
    assert steps >= max(answered, opened)
