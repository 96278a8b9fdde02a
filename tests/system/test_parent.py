"""Processes end with their parent, whatever they do when it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.process import children
from support.process import state
from support.workers import PATIENCE, WorkerProcess, all_ended

# A parent of one process, which asks for its end, says so and then echoes lines, spins, or stops.
FAMILY = """
import os, signal, sys
from stepstream_server.parent import end_after_parent, end_with_parent
parent = os.getpid()
if not os.fork():
    {asks}
    print("asked", flush=True)
    {does}
signal.pause()
"""
ASKS = {"with": "end_with_parent(parent)", "after": "end_after_parent(parent, 0.001)"}
DOES = {
    "echoes": "print(sys.stdin.readline(), flush=True)",
    "spins": "while True: pass",
    "waits": "signal.pause()",
    "stops": "os.kill(os.getpid(), signal.SIGSTOP); signal.pause()",
}


@contextmanager
def family(asks: str, does: str) -> Iterator[tuple[subprocess.Popen[str], WorkerProcess]]:
    """A parent and its child, which has asked; nothing of them is left at the end."""
    program = FAMILY.format(asks=ASKS[asks], does=DOES[does])
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "asked\n"
        child = WorkerProcess(*children(parent.pid))
        while does == "stops" and state(child.pid) != "T":
            pass
        try:
            yield parent, child
        finally:
            parent.kill()
            child.kill()


@pytest.mark.parametrize("asks", ASKS)
@pytest.mark.parametrize("does", ["spins", "waits", "stops"])
async def test_it_ends(asks: str, does: str) -> None:
    """A child is killed at once, or so many seconds later if it does not end by itself."""
    with family(asks, does) as (parent, child):
        parent.kill()
        await child.ended()


async def test_one_that_was_stopped_goes_on_while_its_parent_lives() -> None:
    """Nobody hurries a child whose parent lives."""
    with family("after", "echoes") as (parent, child):
        child.send_signal(signal.SIGSTOP)
        child.send_signal(signal.SIGCONT)
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write("still here\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "still here\n"


@pytest.mark.parametrize("asks", ASKS)
async def test_one_that_asks_too_late_ends(asks: str) -> None:
    """Its parent, here one that never was, has ended before."""
    ask = ASKS[asks].replace("parent)", "os.getpid())").replace("parent,", "os.getpid(),")
    program = f"import os, signal; from stepstream_server.parent import *; {ask}; signal.pause()"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    try:
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == -{"with": signal.SIGKILL, "after": signal.SIGALRM}[asks]
    finally:
        if process.returncode is None:
            process.kill()


# What looks at graphs, but that a job says so and then waits for ever.
SLOW_CHILD = """#!{python}
import signal, sys
from stepstream_server.bundles.program import child

def wait(file, states):
    open(file, "wb").close()
    signal.pause()

child.TASKS["propose"] = wait
sys.argv[1:] = sys.argv[-1:]
child.main()
"""
ASKER = """
import sys
from pathlib import Path
from stepstream_server.bundles.program.confinement import Confinement
sys.executable = sys.argv[1]
with Confinement() as confinement:
    confinement.run("propose", Path(sys.argv[2]), "{}")
"""


async def test_a_trial_of_a_graph_ends_with_who_asked_for_it(tmp_path: Path) -> None:
    """The process that forks jobs, and the job that it has forked."""
    program, pipe = tmp_path / "child", tmp_path / "graph.onnx"
    program.write_text(SLOW_CHILD.format(python=sys.executable))
    program.chmod(0o700)
    os.mkfifo(pipe)
    asker = await asyncio.create_subprocess_exec(sys.executable, "-c", ASKER, str(program), str(pipe))
    try:
        assert await asyncio.to_thread(pipe.read_bytes) == b""  # the job has begun
        (forker,) = children(asker.pid)
        left = [WorkerProcess(forker), *map(WorkerProcess, children(forker))]
        assert len(left) == 2
    finally:
        asker.kill()
    await all_ended(left)
    await asker.wait()
