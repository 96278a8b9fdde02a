"""`stepstream stream`: readings on stdin, predictions on stdout: a session fed as far ahead as its window reaches, and answered.

Lines that have come together travel together, so a file goes in large pieces and a sensor's readings one by one, and no answer
waits for a reading that has not come. Memory is bounded by PIECES; when nobody reads the answers, nothing more is read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

import typer

from stepstream import Client, ClientOptions, ModelInfo, Outputs, Session, StepStreamError
from stepstream.cli import show
from stepstream.cli.columns import Format, Lines, Reader, Row, arrays, chosen, input_columns, numbered_row
from stepstream.cli.options import (
    AtLine,
    IdleTtl,
    Misuse,
    Model,
    ModelVersion,
    Options,
    Wanted,
    list_of,
    secret_of,
    secret_option,
)
from stepstream.cli.pipes import STDERR, STDIN, Worker, read_lines, write

PIECE_STEPS = 256  # a quarter of the default window, so that pieces overlap; a call of its own costs less than one of its steps
PIECES = 8  # under way at once: twice the default window
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
    secret: Annotated[
        str | None, secret_option("That session's secret, as `open` printed it: always needed with --session.")
    ] = None,
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
        if os.isatty(STDIN) and os.isatty(STDERR):
            names = ",".join(column.name for column in input_columns(served))
            typer.echo(f"One reading a line ({names}), then Enter; Ctrl-D ends.", err=True)
        await Flow(held, reader, lines, header, _report if skip_bad else None).run()


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


# The session fed and answered ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Piece:
    """Steps sent together: the lines they came from, and their answer."""

    lines: list[int]
    answer: asyncio.Task[Outputs]


class Flow:
    """One run of `stream`."""

    def __init__(
        self, session: Session, reader: Reader, lines: Lines, header: str, on_bad_line: Callable[[Misuse], None] | None
    ) -> None:
        self._session = session
        self._reader = reader
        self._lines = lines
        self._on_bad_line = on_bad_line  # None: a bad line ends it
        self._pieces: asyncio.Queue[Piece | Exception | None] = asyncio.Queue(PIECES)
        self._under_way: set[asyncio.Task[Outputs]] = set()
        self._header = header  # until it has been written
        self._seq = session.next_seq  # of the next step to be written

    async def run(self) -> None:
        """From stdin to stdout, until stdin ends.

        Raises Misuse with its line number for a line that is no reading and AtLine for a reading that the server refused, both
        after the answers before it have been written; BrokenPipeError when nobody reads them any more.
        """
        with Worker() as reading, Worker() as writing:
            feeder = asyncio.create_task(self._feed(read_lines(reading)))
            try:
                await self._answer(writing)
                await writing.call(write, self._header.encode())  # if there was nothing to answer
            finally:
                await self._drop(feeder)

    async def _feed(self, batches: AsyncIterator[list[bytes]]) -> None:
        try:
            number = 0
            async for batch in batches:
                for first in range(0, len(batch), PIECE_STEPS):
                    piece = batch[first : first + PIECE_STEPS]
                    await self._send(number + 1, piece)
                    number += len(piece)
            await self._pieces.put(None)
        except Exception as error:  # raised behind the answers before it
            await self._pieces.put(error)

    async def _send(self, first: int, lines: list[bytes]) -> None:
        """Sends the readings among the lines, of which the first has the number `first`, up to one that ends it all."""
        numbers: list[int] = []
        rows: list[Row] = []
        fault: Misuse | None = None
        for number, line in enumerate(lines, first):
            try:
                row = self._row(number, line)
            except Misuse as error:
                fault = error
                break
            if row is not None:
                numbers.append(number)
                rows.append(row)
        if rows:
            answer = asyncio.create_task(self._session.chunk(arrays(self._session.model, rows)))
            self._under_way.add(answer)
            await self._pieces.put(Piece(numbers, answer))
        if fault is not None:
            raise fault

    def _row(self, number: int, line: bytes) -> Row | None:
        try:
            return numbered_row(self._reader, number, line)
        except Misuse as fault:
            if self._on_bad_line is None or not self._reader.begun:
                raise
            self._on_bad_line(fault)
            return None

    async def _answer(self, writing: Worker) -> None:
        while (piece := await self._pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            try:
                outputs = await piece.answer
            except StepStreamError as error:
                answered = await self._write_some(writing, error.outputs or {})
                raise AtLine(piece.lines[min(answered, len(piece.lines) - 1)], error) from None
            self._under_way.remove(piece.answer)
            await self._write_some(writing, outputs)

    async def _write_some(self, writing: Worker, outputs: Outputs) -> int:
        """Writes the next steps; returns how many they are."""
        steps = len(next(iter(outputs.values()), ()))
        if steps:
            text = self._header + self._lines.text(self._seq, outputs)
            await writing.call(write, text.encode())
            self._header = ""
            self._seq += steps
        return steps

    async def _drop(self, feeder: asyncio.Task[None]) -> None:
        """Ends what is still under way."""
        feeder.cancel()
        for answer in self._under_way:
            answer.cancel()
        await asyncio.gather(feeder, *self._under_way, return_exceptions=True)
