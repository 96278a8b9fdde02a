"""How blocking calls, clients and processes end: by Ctrl-C, by the interpreter's exit, by a fork."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from stepstream import sync
from support.background import Background, in_background
from support.servicer import FakeServicer, serving

SECONDS = 30  # beyond which a program counts as hanging


@pytest.fixture
def servicer() -> FakeServicer:
    """The server's side."""
    return FakeServicer()


@pytest.fixture
def server(servicer: FakeServicer) -> Iterator[Background[str]]:
    """It runs on a thread of its own; `value` is its address."""
    with in_background(serving(servicer)) as background:
        yield background


def run(script: str, address: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, which gets the server's address as its argument."""
    command = [sys.executable, "-W", "error", "-c", script, address]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)


@pytest.fixture
def interrupt(server: Background[str], servicer: FakeServicer) -> Iterator[None]:
    """Presses Ctrl-C once the server has the first block; the test's main thread waits for its answer by then or soon."""

    async def press() -> None:
        await servicer.until(lambda: len(servicer.seen("block")) == 1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    servicer.paused = True
    pressed = server.start(press())
    yield
    pressed.result()


@pytest.mark.usefixtures("interrupt")
def test_ctrl_c_interrupts_a_step(server: Background[str], servicer: FakeServicer) -> None:
    """The wait ends, the input stays sent as after any cancelled call, and the session goes on behind it."""
    with sync.Client(server.value) as client, client.open_session("level") as session:
        with pytest.raises(KeyboardInterrupt):
            session.step(1.0)
        server.call(servicer.release)
        assert session.step(1.0)["count"][0] == 2


@pytest.mark.usefixtures("interrupt")
def test_ctrl_c_interrupts_a_stream(server: Background[str], servicer: FakeServicer) -> None:
    """The iteration ends with all that it had begun."""
    with sync.Client(server.value) as client, client.open_session("level") as session:
        with pytest.raises(KeyboardInterrupt):
            list(session.stream(np.ones(100)))
        server.call(servicer.release)
        assert session.step(1.0)["count"][0] == session.next_seq < 30


UNCLOSED = """
import sys
from stepstream import sync
client = sync.Client(sys.argv[1])
session = client.open_session("level")
answers = session.stream([1.0] * 100)
print(next(answers)["count"][0])
"""

INTERRUPTED = """
import os, signal, sys, threading
from stepstream import sync
with sync.Client(sys.argv[1]) as client, client.open_session("level") as session:
    def readings():
        yield 1.0
        signal.raise_signal(signal.SIGINT)
        yield 2.0
    for outputs in session.stream(readings()):
        print(outputs["count"][0])
"""

FORKED = """
import asyncio, os
from contextlib import nullcontext
from stepstream.sync._thread import LoopThread
thread = LoopThread(nullcontext())
thread.run(asyncio.sleep(0))
child = os.fork()
if child == 0:
    try:
        thread.run(asyncio.sleep(0))
    except RuntimeError as error:
        print(error, flush=True)
    thread.stop()
    os._exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), thread.run(asyncio.sleep(0, "goes on")))
"""


def test_an_unclosed_client_does_not_hold_the_interpreter_up(server: Background[str]) -> None:
    """A program that ends in the middle of a stream ends, and says nothing about it."""
    ended = run(UNCLOSED, server.value)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1.0\n", "")


def test_a_program_that_is_interrupted_closes_its_session(server: Background[str], servicer: FakeServicer) -> None:
    """Ctrl-C leaves the contexts as any exception does: what is left is a traceback of KeyboardInterrupt."""
    ended = run(INTERRUPTED, server.value)
    assert (ended.returncode, ended.stdout) == (-signal.SIGINT, "1.0\n")
    assert ended.stderr.endswith("KeyboardInterrupt\n")
    assert "During handling" not in ended.stderr
    assert not servicer.sessions


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_is_told_to_make_a_client_of_its_own() -> None:
    """The child hears so at once, and the parent goes on. Tried without gRPC, whose own handlers may end the
    child before it comes to that."""
    ended = run(FORKED, "")
    told, last = ended.stdout.splitlines()
    assert "make another one here" in told
    assert (last, ended.returncode) == ("0 goes on", 0)


def test_the_loops_own_thread_may_not_wait_for_itself(server: Background[str]) -> None:
    """Readings with a length are taken on the client's thread; one that calls the client is an error rather than the end."""
    with sync.Client(server.value) as client, client.open_session("level") as session:

        class Readings(list[float]):
            def __iter__(self) -> Iterator[float]:
                session.step(1.0)
                return super().__iter__()

        with pytest.raises(RuntimeError, match="wait for itself"):
            list(session.stream(Readings([1.0])))
