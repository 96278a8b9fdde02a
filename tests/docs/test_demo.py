"""The demo is the first thing that a newcomer runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from programs.fetch import RECORDINGS, SILERO

from support.published import require

ROOT = Path(__file__).parents[2]
SHORT = ["--seconds", "6", "--speed", "60"]


def start(*arguments: str) -> subprocess.Popen[str]:
    """The demo as a process, in a session of its own: its output is no terminal."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "demo.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def server_of(process: subprocess.Popen[str]) -> int:
    """The id of the server that the demo has started; waits until it serves."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith("Server at"):
            (children,) = (path.read_text().split() for path in Path(f"/proc/{process.pid}/task").glob(f"{process.pid}/children"))
            return int(children[0])
    raise AssertionError("the demo ended before its server served")


def runs(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_demo_runs_to_its_end(tmp_path: Path) -> None:
    """It plots, draws pictures, tells errors and latencies, shows what each other model does, and leaves no server behind."""
    picture = tmp_path / "drawn" / "demo.png"
    process = start(*SHORT, "--png", str(picture))
    server = server_of(process)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    for drawn in (picture, picture.with_stem("demo_fan")):
        assert drawn.read_bytes().startswith(b"\x89PNG")
    assert "\x1b" not in printed  # no terminal, no colours and no animation
    parts = ("ahead_9 (100 ms)", "server: queue", "client: call to answer", "mean batch 200 rows", "exit code 0")
    texts = ("100 paths from 12.5 s on", "def __init__(self, items=None):", "340 bytes, seed 3", "I speak fluent Urdu.")
    others = ("waste -1.4", "am dritten März <fr> → le trois mars", "eight at")
    for part in (*parts, *texts, *others):
        assert part in " ".join(printed.split())
    assert not runs(server)


def test_the_demo_of_all_uses_runs_to_its_end(long_run: bool) -> None:
    """Speech is heard in real time, so that it takes its time."""
    if not long_run:
        pytest.skip("with --long")
    require(SILERO, RECORDINGS)
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "demo_uses.py")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=110)
    assert done.returncode == 0, done.stdout
    for part in ("time series", "I speak fluent Urdu.", "waste -1.4", "le trois mars", "eight at", "speech from", "exit code 0"):
        assert part in " ".join(done.stdout.split())


def test_the_demo_of_a_memory_that_survives_its_server_runs_to_its_end(tmp_path: Path) -> None:
    """From any folder and without a terminal: it is told something, its server is killed, and it still knows."""
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "demo_memory.py")]
    done = subprocess.run(command, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    killed, successor = re.search(r"SIGKILL of server (\d+); now server (\d+)", done.stdout).groups()  # type: ignore[union-attr]
    assert killed != successor
    for part in ("I speak fluent Urdu.", "nothing was told twice", "exit code 0"):
        assert part in done.stdout
    assert not runs(int(killed)) and not runs(int(successor))
    assert not list(tmp_path.iterdir())


def test_interrupting_the_demo_stops_its_server() -> None:
    """Ctrl-C or SIGTERM in the middle: no traceback, no server left."""
    for number in (signal.SIGINT, signal.SIGTERM):
        process = start()
        server = server_of(process)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 130, printed
        assert "Stopped." in printed
        assert "Traceback" not in printed
        assert not runs(server)
