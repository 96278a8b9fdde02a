"""`stepstream stream`: readings on stdin, predictions on stdout."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated

import typer

from stepstream import Client, ClientOptions, ModelInfo, Session, StepStreamError
from stepstream.cli import show
from stepstream.cli.arguments import IdleTtl, Model, ModelVersion, Secret, Wanted, list_of, secret_of
from stepstream.cli.columns import chosen, input_columns
from stepstream.cli.faults import Misuse
from stepstream.cli.flow import Flow
from stepstream.cli.options import Options
from stepstream.cli.predictions import Lines
from stepstream.cli.readings import Format, Reader

STDIN, STDOUT = 0, 1
LEAVE_SECONDS = 5.0  # after Ctrl-C or an error: a server that is away is not waited for, and ends the session as idle


async def stream(
    options: Options,
    model: Model,
    *,
    outputs: Wanted = None,
    columns: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Names of the input's columns in order, where it has none or others.")
    ] = None,
    format: Annotated[Format, typer.Option(help="What the lines are. auto: JSON if the first one begins with { or [.")] = "auto",
    no_header: Annotated[bool, typer.Option("--no-header", help="Print no names above the columns.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Report a line that is no reading, and go on.")] = False,
    session: Annotated[str | None, typer.Option(metavar="ID", help="Go on in this open session, and leave it open.")] = None,
    secret: Secret = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the new session open; its id and secret go to stderr.")] = False,
    idle_ttl: IdleTtl = None,
    reconnect: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="How long to look for a server that has gone away meanwhile.")
    ] = ClientOptions().reconnect_seconds,
    model_version: ModelVersion = None,
) -> None:
    """Streams lines of text through a session.

    Each line of stdin, CSV or JSON, is a step, and what the model answers is printed as soon as it is there: as CSV, with
    --json as one JSON object a line. Columns are found by the names of the model's inputs in the first line; without such a
    line, they are the inputs in order. Other columns are passed over. The session is closed in the end, also by Ctrl-C, unless
    --keep or --session asks otherwise.

    Examples:
        stepstream stream ecg < examples/ecg/held_out.csv | head
        stepstream stream ecg --outputs 'ahead_9[10]' < readings.csv > predicted.csv
        tail -f sensor.log | stepstream stream ecg --json | jq .outputs.next
    """
    if keep and session:
        raise Misuse("--keep: a session that --session names is left open anyway")
    key = _key(session, secret)
    async with options.client() as client:
        served = await client.model(model, model_version)
    reader = Reader(served, format, list_of(columns))
    lines = Lines(chosen(served, list_of(outputs)), as_json=options.json)
    header = "" if options.json or no_header else lines.header
    async with options.client(reconnect) as client, _session(client, served, key, idle_ttl, keep=keep) as held:
        if keep:
            typer.echo(show.owned(held, as_json=options.json), err=True)
        if os.isatty(STDIN) and sys.stderr.isatty():
            names = ",".join(column.name for column in input_columns(served))
            typer.echo(f"One reading a line ({names}), then Enter; Ctrl-D ends.", err=True)
        await Flow(held, reader, lines, header, _report if skip_bad else None).run(STDIN, STDOUT)


def _key(session: str | None, secret: str | None) -> tuple[str, bytes] | None:
    """Which session to go on in; None: a new one."""
    if session is None:
        return None
    proof = secret_of(secret)
    if proof is None:
        raise Misuse("--session: expected --secret with it, which `stepstream open` printed; a stream takes a session over by it")
    return session, proof


@asynccontextmanager
async def _session(
    client: Client, model: ModelInfo, key: tuple[str, bytes] | None, idle_ttl: float | None, *, keep: bool
) -> AsyncIterator[Session]:
    """The session to feed; closed in the end if it was opened for this alone."""
    if key is None:
        session = await client.open_session(model.name, version=model.version, idle_ttl=idle_ttl)
    else:
        session = await client.attach_session(model.name, *key, version=model.version)
    async with in_the_end(session.detach if keep or key else session.close):
        yield session


@asynccontextmanager
async def in_the_end(leave: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Leaves a session in the end, whatever ends it."""
    try:
        yield
    except BaseException:
        with suppress(StepStreamError, TimeoutError):  # what went wrong first is what counts
            async with asyncio.timeout(LEAVE_SECONDS):
                await leave()
        raise
    await leave()


def _report(fault: Misuse) -> None:
    typer.echo(f"stepstream: {fault}; skipped", err=True)
