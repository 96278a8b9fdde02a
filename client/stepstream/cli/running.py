"""From a command's coroutine to the process's exit code: signals, closed pipes, errors."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import typer

from stepstream import StepStreamError
from stepstream.cli.faults import AtLine, ExitCode, Misuse, exit_code, told, told_plainly

Work = Callable[[], Coroutine[Any, Any, None]]


def run(work: Work, *, as_json: bool) -> ExitCode:
    """Runs it to its end. Whatever ends it early, what it has entered is left properly, so that its session is closed."""
    try:
        with asyncio.Runner() as runner:
            return runner.run(_until_terminated(work))
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return ExitCode.PIPE_CLOSED
    except Misuse as error:
        typer.echo(told_plainly(str(error), "USAGE", as_json=as_json), err=True)
        return ExitCode.MISUSE
    except (StepStreamError, AtLine) as error:
        line, cause = (error.line, error.error) if isinstance(error, AtLine) else (None, error)
        typer.echo(told(cause, line, as_json=as_json), err=True)
        return exit_code(cause)
    except OSError as error:
        typer.echo(told_plainly(str(error), "FILE", as_json=as_json), err=True)
        return ExitCode.REFUSED


async def _until_terminated(work: Work) -> ExitCode:
    """SIGTERM, which `timeout` and service managers send, leaves by the same way as Ctrl-C."""
    terminated = False
    task = asyncio.current_task()

    def on_terminate() -> None:
        nonlocal terminated
        terminated = True
        if task is not None:
            task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, on_terminate)
    try:
        await work()
    except asyncio.CancelledError:
        if not terminated:
            raise
        return ExitCode.TERMINATED
    return ExitCode.FINE


def _forget_stdout() -> None:
    """What is still buffered cannot be written; without this the interpreter would complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
