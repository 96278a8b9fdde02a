"""The commands: arguments, settings, logs and signals; then it hands over.

Rooms that take long to import (backends, gRPC) are imported by the command that needs them, after its arguments are known
to be right.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import inspect as reflection
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from stepstream_server.errors import AccessError, BundleError, StepStreamError

try:
    import structlog
    import typer

    from stepstream_server import access, addresses, logs, memory, process
    from stepstream_server.cli.admin import administration
    from stepstream_server.cli.ending import FAILED, WRONG_USAGE, fail
    from stepstream_server.config import LogLevel, LogSettings, Settings
    from stepstream_server.sources import CONFIG_VARIABLE, SettingsError, fields, in_file_alone, load, source, variable
except ModuleNotFoundError as missing:
    raise SystemExit(f"stepstream-server needs {missing.name}: pip install 'stepstream[server]'") from None

if TYPE_CHECKING:
    from stepstream_server.app import Bound

_THEY_STAY = "flags and variables stay as they were at the start"

# Plain help: the framed kind cuts off long names of settings and swallows square brackets.
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.add_typer(administration, name="admin")


def main() -> None:
    """The console script."""
    process.choose_for_grpc()
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"stepstream-server {importlib.metadata.version('stepstream')}")
        raise typer.Exit


_Version = Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")]


@app.callback()
def _root(version: _Version = False) -> None:
    """Serves recurrent networks and keeps the state of each session."""


def _kind(annotation: Any) -> str:
    """What a setting's value is, for the help: INT, or its choices."""
    return "|".join(get_args(annotation)) or annotation.__name__.upper()


def _shown(default: object, mark: str = "") -> str:
    """A default as people read it, between marks."""
    return "none" if default == "" else f"{mark}{default}{mark}"


def _flag_parameters() -> list[reflection.Parameter]:
    """One optional flag per setting, so that a new setting is one line in its record."""
    return [
        reflection.Parameter(
            key.replace(".", "__"),
            reflection.Parameter.KEYWORD_ONLY,
            annotation=str | None,
            default=typer.Option(
                None,
                f"--{key}",
                help=f"{field.description} [default: {_shown(field.default)}]",
                metavar=_kind(field.annotation),
            ),
        )
        for key, field in fields()
        if not in_file_alone(key)
    ]


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces `**flags` in the command's signature, which typer reads, by the flags derived from the records."""
    own = [each for each in reflection.signature(command, eval_str=True).parameters.values() if each.kind is not each.VAR_KEYWORD]
    parameters = [*own, *_flag_parameters()]

    @functools.wraps(command)
    def with_flags(**values: Any) -> None:
        command(**values)

    with_flags.__signature__ = reflection.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_flags


@app.command()
@_with_flags
def serve(
    *,
    config: Annotated[Path | None, typer.Option(help=f"TOML file of settings. [environment: {CONFIG_VARIABLE}]")] = None,
    **flags: str | None,
) -> None:
    """Serves every bundle of a folder.

    SIGTERM or SIGINT stops it once what it accepted is finished; a second one at once. SIGHUP has it read log.level anew.

    Each setting comes from its flag, else its environment variable (engine.capacity: STEPSTREAM_ENGINE__CAPACITY), else the
    TOML file (capacity under [engine]), else its default. Settings of single models are in the file alone, under [model.NAME].
    """
    given = {key.replace("__", "."): value for key, value in flags.items() if value is not None}
    try:
        settings = load(given, os.environ, config)
    except SettingsError as error:
        fail(str(error), WRONG_USAGE)
    process.hold_hang_ups()
    process.raise_descriptor_limit()
    memory.map_arrays(memory.STARTING_BYTES)
    logs.configure(settings.log)
    reread_level = functools.partial(_reread_level, given, config)
    if settings.on_failure == "restart":
        raise typer.Exit(_supervise(reread_level))

    from stepstream_server.store import StoreError

    try:
        code = _run(settings, reread_level)
    except (BundleError, AccessError, StoreError, StepStreamError, OSError) as error:
        fail(str(error), FAILED)
    raise typer.Exit(code)


def _run(settings: Settings, reread_level: Callable[[], LogLevel | None]) -> int:
    from stepstream_server.app import serve as serve_until

    async def run() -> int:
        loop, stop, levels = asyncio.get_running_loop(), asyncio.Event(), asyncio.Queue[LogLevel]()
        _stop_on_signals(loop, stop)
        process.heed_hang_ups(loop, lambda: levels.put_nowait(level) if (level := reread_level()) else None)
        return await serve_until(settings, stop=stop, on_started=on_started, levels=levels)

    def on_started(bound: Bound) -> None:
        process.settle_down()
        memory.map_arrays(memory.SERVING_BYTES)
        _announce(bound, settings.log)

    return process.run(run())


def _supervise(reread_level: Callable[[], LogLevel | None]) -> int:
    from stepstream_server.supervise import Supervisor, supervised

    async def run() -> int:
        return await Supervisor(supervised(["--on_failure", "exit"]), on_hang_up=reread_level).run()

    return asyncio.run(run())


def _reread_level(flags: Mapping[str, str], config: Path | None) -> LogLevel | None:
    """Takes the level of the log that the settings name now, and returns it; None if they are wrong, which is logged."""
    try:
        level = load(flags, os.environ, config).log.level
        whose = source("log.level", flags, os.environ, config)
    except SettingsError as error:
        structlog.get_logger(__name__).error("log_level_kept", error=str(error))
        return None
    logs.take_level(level, source=whose if whose.startswith("file") else f"{whose}; {_THEY_STAY}")
    return level


def _stop_on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT sets `stop`; the next finds the system's own handling, which ends the process at once."""

    def on_signal() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def _announce(bound: Bound, settings: LogSettings) -> None:
    """On stdout (flushed), in the form that logs have."""
    typer.echo(addresses.tell(bound.listen, bound.metrics, bound.health, as_json=logs.are_json(settings)))
    structlog.get_logger(__name__).info("listening", listen=bound.listen, metrics=bound.metrics, health=bound.health)


@app.command("init-model")
def init_model(
    path: Annotated[Path, typer.Argument(metavar="DIR/NAME", help="Folder to write; its name becomes the model's.")],
    cell: Annotated[Literal["lstm", "gru", "rnn"], typer.Option(help="Kind of cell.")] = "lstm",
    inputs: Annotated[int, typer.Option(min=1, help="Features of one step.")] = 16,
    hidden: Annotated[int, typer.Option(min=1, help="Width of h.")] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Cells on top of each other.")] = 1,
    outputs: Annotated[int, typer.Option(min=1, help="Numbers that a step answers.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights: the same seed, the same model.")] = 0,
) -> None:
    """Writes an untrained model, for load tests. Its tensors are named `input` and `output`."""
    from stepstream_server import bundles

    try:
        bundles.init_model(path, cell=cell, inputs=inputs, hidden=hidden, layers=layers, outputs=outputs, seed=seed)
    except (BundleError, OSError) as error:
        fail(str(error), FAILED)
    typer.echo(f"wrote {path}")


@app.command()
def propose(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A step function in ONNX.")],
    state: Annotated[list[str] | None, typer.Option(metavar="IN=OUT", help="A state: its input and output. Repeatable.")] = None,
) -> None:
    """Drafts the manifest of a graph in ONNX, on stdout.

    States are found by names and shapes, batch axes and shapes of outputs by runs. What was guessed is told on stderr, a line per
    field with what to check. Complete the draft, then `pack` it.
    """
    from stepstream_server import bundles

    pairs = dict(_pair(each) for each in state or ())
    try:
        proposal = bundles.propose(file, pairs)
    except (BundleError, OSError) as error:
        fail(str(error), FAILED)
    _tell(proposal.notes)
    typer.echo(proposal.text, nl=False)


def _pair(text: str) -> tuple[str, str]:
    """The two names of IN=OUT."""
    read, found, written = text.partition("=")
    if not (read and found and written):
        fail(f"--state: expected IN=OUT, the names of an input and an output, got {text!r}", WRONG_USAGE)
    return read, written


@app.command()
def pack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A step function in ONNX.")],
    manifest: Annotated[Path, typer.Argument(metavar="MODEL.JSON", help="Its manifest, as `propose` drafts it.")],
    path: Annotated[Path, typer.Argument(metavar="DIR/NAME", help="Folder to write; a bundle there is replaced.")],
) -> None:
    """Writes a graph in ONNX and its manifest as a bundle.

    All is tried before: operators, ranges of inputs, the first step of a session, and batches up to the largest.
    """
    from stepstream_server import bundles

    try:
        packed = bundles.pack(file, manifest.read_text(), path)
    except (BundleError, OSError, UnicodeDecodeError) as error:
        fail(str(error), FAILED)
    _tell(f"warning: {each}" for each in packed.warnings)
    typer.echo(f"wrote {path}")


@app.command()
def inspect(path: Annotated[Path, typer.Argument(metavar="DIR/NAME", help="A bundle's folder.")]) -> None:
    """Prints what a bundle is.

    Tensors, states, cell, heads, provenance. The bundle is checked as serving checks it; a program is tried in full, which takes
    some seconds.
    """
    from stepstream_server import bundles

    try:
        inspected = bundles.inspect(path)
    except (BundleError, OSError) as error:
        fail(str(error), FAILED)
    _tell(f"warning: {each}" for each in inspected.warnings)
    typer.echo(inspected.text)


def _tell(lines: Iterable[str]) -> None:
    """On stderr, so that stdout can go into a file."""
    for line in lines:
        typer.echo(line, err=True)


@app.command("compile")
def compile_rules() -> None:
    """Compiles the engine's rules and keeps them.

    A server that finds none compiles them when it starts, which takes some 30 seconds. They are kept in NUMBA_CACHE_DIR or else
    beside the program; with NUMBA_CPU_NAME=generic, here and where the server runs, they fit any processor of the architecture.
    """
    from stepstream_server.engine.compiled import cache_folder
    from stepstream_server.engine.steps.rehearsal import rehearse

    rehearse()
    typer.echo(f"compiled into {cache_folder()}")


@app.command()
def token(
    tenant: Annotated[str, typer.Option(help="Whose it is: 1 to 64 characters of A-Z a-z 0-9 . _ -")],
    role: Annotated[access.Role, typer.Option(help="admin also sees statistics of all tenants.")] = access.Role.CALLER,
    name: Annotated[str, typer.Option(help="Of who gets it, for people.")] = "",
) -> None:
    """Makes a token, which is printed on stdout, this once.

    On stderr comes its entry for the file of tenants (door.tokens), which holds no more than a hash of it.
    """
    made = access.make_token()
    try:
        entry = access.entry(tenant, made, role, name)
    except AccessError as error:
        fail(str(error), WRONG_USAGE)
    typer.echo(made)
    typer.echo(entry, err=True)


@app.command()
def settings() -> None:
    """Prints every setting.

    With its default, its environment variable and the reason for the default, as a Markdown table.
    """
    typer.echo("| setting | default | environment | what, and why that default |\n|---|---|---|---|")
    for key, field in fields():
        where = "none: in the file alone" if in_file_alone(key) else f"`{variable(key)}`"
        typer.echo(f"| `{key}` | {_shown(field.default, '`')} | {where} | {field.description} |")
