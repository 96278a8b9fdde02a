"""Options of the whole test run, and the signals that it and the programs that it starts begin with."""

from __future__ import annotations

import signal

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the proof of exactly once goes on."""
    parser.addoption("--examples", type=int, default=2000, help="random histories that exactly once is proved on")


def pytest_configure(config: pytest.Config) -> None:
    """Undoes what a job runner, `nohup` or a shell's `&` may have left: signals that are ignored, here and in all children.

    Tests press Ctrl-C, here and in programs that they start; a program that begins with a signal ignored is meant to go on
    ignoring it, and such a test would wait for ever. A hang-up still does not end the run, nor the worker processes of one,
    which end with it: a handler, unlike an ignored signal, is not handed on to children.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN or hasattr(config, "workerinput"):
        signal.signal(signal.SIGHUP, lambda number, frame: None)
