"""Options of the whole test run, and how it and the programs that it starts begin."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

from support import planted

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Whether promises are tried on as many random cases as a release deserves, or on as many as every change can wait for."""
    parser.addoption("--long", action="store_true", help="try several times as many random cases; takes three times as long")


@pytest.fixture
def long_run(request: pytest.FixtureRequest) -> bool:
    """The flag `--long`."""
    return bool(request.config.getoption("--long"))


def pytest_configure(config: pytest.Config) -> None:
    """Sets what programs inherit: they may keep byte code, since some hundreds are started, and they heed signals."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    _heed_signals(config)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fails a test in which this process has printed a secret that a test has planted: servers run in it, and log."""
    report = yield
    turned_up = planted.found("".join(text for _, text in report.sections).encode("utf-8", "surrogateescape"))
    if turned_up and report.passed:
        report.outcome = "failed"
        report.longrepr = f"secrets turned up in what was printed: {turned_up}"
    return report


def _heed_signals(config: pytest.Config) -> None:
    """Undoes what a job runner, `nohup` or a shell's `&` may have left: signals that are ignored, here and in all children.

    Tests press Ctrl-C, here and in programs that they start; a program that begins with a signal ignored is meant to go on
    ignoring it, and such a test would wait for ever. A hang-up still does not end the run, nor the worker processes of one,
    which end with it: a handler, unlike an ignored signal, is not handed on to children.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN or hasattr(config, "workerinput"):
        signal.signal(signal.SIGHUP, lambda number, frame: None)
