"""`make chaos` in short: real servers and workers are killed, and no session notices."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.process import ROOT


@pytest.mark.slow
@pytest.mark.timeout(300)  # some seconds of load, and a dozen processes started one after the other
def test_no_session_notices_that_workers_and_servers_are_killed() -> None:
    """Every output is that of an undisturbed run, to the bit: none is missing, and none comes twice."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.chaos", "--short"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": 3 times, " in done.stdout
    assert " 0 differences; " in done.stdout
