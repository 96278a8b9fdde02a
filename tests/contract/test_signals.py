"""Signals with which the tests begin, whoever runs them: a test of Ctrl-C must not wait for ever under a job runner."""

from __future__ import annotations

import signal
import subprocess
import sys

TELL = "import signal; print([number for number in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_IGN])"


def test_programs_that_tests_start_ignore_no_signals() -> None:
    """And Ctrl-C raises KeyboardInterrupt here."""
    told = subprocess.run([sys.executable, "-c", TELL], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nor_do_they_where_the_tests_were_started_with_signals_ignored() -> None:
    """As `nohup`, a shell's `&` and many job runners start them."""
    this = f"{__file__}::{test_programs_that_tests_start_ignore_no_signals.__name__}"
    script = f"trap '' INT HUP; {sys.executable} -c '{TELL}'; exec {sys.executable} -m pytest -p no:cacheprovider -q {this}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert "SIGINT" in done.stdout.splitlines()[0]
    assert done.returncode == 0, done.stdout
