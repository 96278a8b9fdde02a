"""The commands put together: each function becomes a command that takes the common options as well and ends with an exit code.

Signals, closed pipes and errors end it as well as its own end does.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import inspect
import math
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, get_args, get_origin

import typer

from stepstream import StepStreamError
from stepstream.cli.chat import chat
from stepstream.cli.closing import close
from stepstream.cli.forecasting import forecast
from stepstream.cli.generating import complete
from stepstream.cli.options import AtLine, ExitCode, Misuse, Options, exit_code, parameters, real, told, told_plainly, whole
from stepstream.cli.pipes import STDOUT, require
from stepstream.cli.sessions import export, fork, import_, models, open_, sessions, step
from stepstream.cli.streaming import stream
from stepstream.cli.top import top

Command = Callable[..., Coroutine[Any, Any, None]]
Work = Callable[[], Coroutine[Any, Any, None]]

# Plain help, as that of stepstream-server: the framed kind cuts off long names and swallows square brackets.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
_COMMON = parameters()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stepstream {importlib.metadata.version('stepstream')}")
        raise typer.Exit


def _with_signature(function: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    """typer reads a command's arguments from its signature."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {each.name: each.annotation for each in parameters}
    return function


def _context() -> inspect.Parameter:
    return inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)


def _root(*, context: typer.Context, version: bool = False, **common: Any) -> None:
    """Sessions of recurrent models from a shell: open them, stream readings through them, look at them.

    Exit codes: 0 fine; 1 the server refused; 2 wrong usage or a bad input line; 3 no connection; 130 Ctrl-C; 141 whoever read
    the output has gone; 143 SIGTERM. What goes wrong is told on stderr, with --json as a JSON object.
    """
    context.obj = common


def _as_command(work: Command) -> Callable[..., None]:
    """`async def work(options, ...)` as typer wants it: the options become flags, the outcome an exit code."""
    own = list(inspect.signature(work, eval_str=True).parameters.values())[1:]
    for each in own:
        _parse_numbers(each.annotation)
    by_keyword = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]

    @functools.wraps(work)
    def command(*, context: typer.Context, **values: Any) -> None:
        after = {each.name: values.pop(each.name) for each in _COMMON}
        as_json = bool(after["json"] or context.obj["json"])

        async def worked() -> None:
            await work(Options.merged(context.obj, after), **values)

        raise typer.Exit(run(worked, as_json=as_json))

    return _with_signature(command, [_context(), *by_keyword, *_COMMON])


def _parse_numbers(annotation: Any) -> None:
    """Has the flag's numbers read as those of lines are, where it takes numbers."""
    kind, option = get_args(annotation)[:2] if get_origin(annotation) is Annotated else (annotation, None)
    for number, parse in ((int, whole), (float, real)):
        if option is not None and number in (kind, *get_args(kind)):
            low, high = -math.inf if option.min is None else option.min, math.inf if option.max is None else option.max
            option.parser = functools.partial(_within, parse, low, high)


def _within(parse: Callable[[str], float], low: float, high: float, given: object) -> float:
    try:
        number = parse(str(given))  # a default is a number already
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not low <= number <= high:
        raise typer.BadParameter(f"expected a number from {low} to {high}, got {given}")
    return number


def _help(work: Command) -> str:
    """The docstring, in whose examples lines are kept as they are."""
    return (inspect.getdoc(work) or "").replace("\n\nExamples:", "\n\n\b\nExamples:")


def _register() -> None:
    version = typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    flag = inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[bool, version], default=False)
    app.callback()(_with_signature(_root, [_context(), flag, *_COMMON]))
    for work in (models, sessions, open_, step, stream, forecast, complete, chat, fork, export, import_, close, top):
        name = work.__name__.rstrip("_")
        # VALUES may be negative numbers, which would otherwise be taken for flags.
        settings = {"ignore_unknown_options": True} if work is step else {}
        app.command(name, context_settings=settings, help=_help(work))(_as_command(work))


# From a coroutine to an exit code ------------------------------------------------------------------------------------


def run(work: Work, *, as_json: bool) -> ExitCode:
    """Runs it to its end. Whatever ends it early, what it has entered is left properly, so that its session is closed."""
    try:
        require(STDOUT)
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
    os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


_register()
