"""What the server chooses for its processes before they begin."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from stepstream_server.process import choose_for_grpc

SERVE = """
import asyncio, grpc.aio
async def serve():
    server = grpc.aio.server()
    await server.start()
    await server.stop(0)
asyncio.run(serve())
"""


def complaints(experiments: str) -> str:
    """What gRPC says on standard error when it begins with these experiments."""
    environment = os.environ | {"GRPC_EXPERIMENTS": experiments}
    return subprocess.run([sys.executable, "-c", SERVE], env=environment, capture_output=True, text=True, check=True).stderr


def test_the_installed_grpc_knows_the_experiments_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of experiments come and go: gRPC says so of one that it does not know."""
    monkeypatch.delenv("GRPC_EXPERIMENTS", raising=False)
    choose_for_grpc()
    assert "Unknown experiment" not in complaints(os.environ["GRPC_EXPERIMENTS"])
    assert "Unknown experiment: never_heard_of" in complaints("-never_heard_of")


@pytest.mark.parametrize(
    ("variable", "chosen"), [("GRPC_EXPERIMENTS", ""), ("GRPC_EXPERIMENTS", "all"), ("GRPC_VERBOSITY", "DEBUG")]
)
def test_what_the_operator_chooses_stays(monkeypatch: pytest.MonkeyPatch, variable: str, chosen: str) -> None:
    """An empty list is a choice, too."""
    monkeypatch.setenv(variable, chosen)
    choose_for_grpc()
    assert os.environ[variable] == chosen


HOLDING = """
import asyncio, os, signal, subprocess, sys
from stepstream_server import process

BLOCKED = "import signal; print(signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, []))"

async def heed():
    heard = asyncio.Event()
    process.heed_hang_ups(asyncio.get_running_loop(), heard.set)
    await heard.wait()
    print("heard", flush=True)
    with process.hang_ups_held():
        subprocess.run([sys.executable, "-c", BLOCKED])
    subprocess.run([sys.executable, "-c", BLOCKED])

process.hold_hang_ups()
os.kill(os.getpid(), signal.SIGHUP)
process.run(heed())
"""


def test_a_hang_up_waits_until_it_is_heeded() -> None:
    """Here, and in a process that is started for it to wait there."""
    assert subprocess.run([sys.executable, "-c", HOLDING], capture_output=True, text=True).stdout == "heard\nTrue\nFalse\n"


LIMITED = """
import resource, subprocess, sys
from stepstream_server import process

resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300))
process.raise_descriptor_limit()
process.raise_descriptor_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE), flush=True)
subprocess.run([sys.executable, "-c", "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"])
"""


def test_descriptors_are_as_many_as_the_system_grants() -> None:
    """Both this process and one that is started afterwards have them."""
    said = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True).stdout
    assert said == "(300, 300)\n(300, 300)\n"
