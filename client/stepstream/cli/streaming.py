"""`stepstream stream`: readings or text on stdin, predictions on stdout: a session fed as far ahead as its window reaches.

What has come together travels together, so a file goes in large blocks and a sensor's readings one by one, and no answer waits
for a reading that has not come. Memory is bounded by BLOCKS; when nobody reads the answers, nothing more is read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Annotated

import typer

from stepstream import Client, ClientOptions, ModelInfo, Outputs, Session, StepStreamError, Text
from stepstream.cli import show
from stepstream.cli.blocks import Block, of_lines, of_text, text_of
from stepstream.cli.columns import Format, Lines, Reader, chosen, input_columns
from stepstream.cli.options import (
    AtLine,
    Durable,
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
from stepstream.cli.pipes import STDERR, STDIN, Worker, pieces, read_lines, write

BLOCKS = 8  # under way at once: twice the default window
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
    text: Annotated[
        bool, typer.Option("--text", help="Stdin is a text: a step for each token of it, not for each line.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Report a line that is no reading, and go on.")] = False,
    session: Annotated[str | None, typer.Option(metavar="ID", help="Go on in this open session, and leave it open.")] = None,
    secret: Annotated[
        str | None, secret_option("That session's secret, as `open` printed it: always needed with --session.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the new session open; its id and secret go to stderr.")] = False,
    idle_ttl: IdleTtl = None,
    durable: Durable = False,
    reconnect: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="How long to look for a server that has gone away meanwhile.")
    ] = ClientOptions().reconnect_seconds,
    model_version: ModelVersion = None,
) -> None:
    """Streams readings, or a text, through a session.

    Each line of stdin, CSV or JSON, is a step, and what the model answers is printed as soon as it is there: as CSV, with
    --json as one JSON object a line. Columns are found by the names of the model's inputs in the first line; without such a
    line, they are the inputs in order. Other columns are passed over. With --text, each word of stdin is a step, or whatever
    else the model's tokens are, and is printed beside what the model answers. The session is closed in the end, also by Ctrl-C,
    unless --keep or --session asks otherwise.

    Examples:
        stepstream stream ecg < examples/ecg/held_out.csv | head
        stepstream stream ecg --outputs 'ahead_9[10]' < readings.csv > predicted.csv
        tail -f sensor.log | stepstream stream ecg --json | jq .outputs.next
        echo 'I wanted to love it, but it is a waste of time.' | stepstream stream sentiment --text
    """
    if keep and session:
        raise Misuse("--keep: a session that --session names is left open anyway")
    if durable and session:
        raise Misuse("--durable: a session that --session names is durable or not since it was opened")
    if text and (columns or skip_bad or format != "auto"):
        raise Misuse("--text: expected neither --columns nor --format nor --skip-bad with it, which are of lines of readings")
    key = _key(session, secret)
    async with options.client() as client:
        served = await client.model(model, model_version)
    lines = Lines(chosen(served, list_of(outputs)), as_json=options.json, tokens=text)
    header = "" if options.json or no_header else lines.header
    source = text_of(served) if text else Reader(served, format, list_of(columns))
    async with options.client(reconnect) as client, _session(client, served, key, idle_ttl, durable=durable, keep=keep) as held:
        if keep:
            typer.echo(show.owned(held, as_json=options.json), err=True)
        if os.isatty(STDIN) and os.isatty(STDERR):
            typer.echo(f"{_invitation(served, text=text)}; Ctrl-D ends.", err=True)
        with Worker() as reading:
            if isinstance(source, Text):
                blocks = of_text(pieces(reading), source)
            else:
                blocks = of_lines(read_lines(reading), served, source, _report if skip_bad else None)
            await Flow(held, blocks, lines, header).run()


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
    client: Client, model: ModelInfo, key: tuple[str, bytes] | None, idle_ttl: float | None, *, durable: bool, keep: bool
) -> AsyncIterator[Session]:
    """The session to feed; closed in the end if it was opened for this alone."""
    if key is None:
        session = await client.open_session(model.name, version=model.version, idle_ttl=idle_ttl, durable=durable)
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


def _invitation(model: ModelInfo, *, text: bool) -> str:
    if text:
        return "A text, line by line"
    return f"One reading a line ({','.join(column.name for column in input_columns(model))}), then Enter"


def _report(fault: Misuse) -> None:
    typer.echo(f"stepstream: {fault}; skipped", err=True)


# The session fed and answered ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sent:
    """A block under way."""

    block: Block
    answer: asyncio.Task[Outputs]


class Flow:
    """One run of `stream`."""

    def __init__(self, session: Session, blocks: AsyncIterator[Block], lines: Lines, header: str) -> None:
        self._session = session
        self._blocks = blocks
        self._lines = lines
        self._sent: asyncio.Queue[Sent | Exception | None] = asyncio.Queue(BLOCKS)
        self._under_way: set[asyncio.Task[Outputs]] = set()
        self._header = header  # until it has been written
        self._seq = session.next_seq  # of the next step to be written

    async def run(self) -> None:
        """Until there are no more blocks.

        Raises Misuse with its line number for a line that cannot be fed and AtLine for one that the server refused, both after
        the answers before it have been written; BrokenPipeError when nobody reads them any more.
        """
        with Worker() as writing:
            feeder = asyncio.create_task(self._feed())
            try:
                await self._answer(writing)
                await writing.call(write, self._header.encode())  # if there was nothing to answer
            finally:
                await self._drop(feeder)

    async def _feed(self) -> None:
        try:
            async for block in self._blocks:
                answer = asyncio.create_task(self._session.chunk(block.inputs))
                self._under_way.add(answer)
                await self._sent.put(Sent(block, answer))
            await self._sent.put(None)
        except Exception as error:  # raised behind the answers before it
            await self._sent.put(error)

    async def _answer(self, writing: Worker) -> None:
        while (sent := await self._sent.get()) is not None:
            if isinstance(sent, Exception):
                raise sent
            block = sent.block
            try:
                outputs = await sent.answer
            except StepStreamError as error:
                answered = await self._write_some(writing, error.outputs or {}, block.tokens)
                raise AtLine(block.lines[min(answered, len(block.lines) - 1)], error) from None
            self._under_way.remove(sent.answer)
            await self._write_some(writing, outputs, block.tokens)

    async def _write_some(self, writing: Worker, outputs: Outputs, tokens: list[str] | None) -> int:
        """Writes the next steps; returns how many they are."""
        steps = len(next(iter(outputs.values()), ()))
        if steps:
            text = self._header + self._lines.text(self._seq, outputs, tokens)
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
