"""Lines in, lines out: a session fed from one file descriptor as far ahead as its window reaches, and answered on another.

Lines that have come together travel together, so a file goes in large pieces and a sensor's readings one by one, and no answer
waits for a reading that has not come. Memory is bounded by PIECES; when nobody reads the answers, nothing more is read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from stepstream import Outputs, Session, StepStreamError
from stepstream.cli.blocking import Worker
from stepstream.cli.columns import arrays
from stepstream.cli.faults import AtLine, Misuse
from stepstream.cli.predictions import Lines
from stepstream.cli.readings import Reader, Row

READ_BYTES = 1 << 16  # what a pipe holds
LINE_BYTES = 1 << 24  # a million numbers; a file without line ends is refused there rather than read into memory
PIECE_STEPS = 256  # a quarter of the default window, so that pieces overlap; a call of its own costs less than one of its steps
PIECES = 8  # under way at once: twice the default window


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

    async def run(self, source: int, target: int) -> None:
        """From file descriptor to file descriptor, until the source ends.

        Raises Misuse with its line number for a line that is no reading and AtLine for a reading that the server refused, both
        after the answers before it have been written; BrokenPipeError when nobody reads them any more.
        """
        with Worker() as reading, Worker() as writing:
            feeder = asyncio.create_task(self._feed(read_lines(reading, source)))
            try:
                await self._answer(writing, target)
                await writing.call(_write, target, self._header)  # if there was nothing to answer
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

    async def _answer(self, writing: Worker, target: int) -> None:
        while (piece := await self._pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            try:
                outputs = await piece.answer
            except StepStreamError as error:
                answered = await self._write_some(writing, target, error.outputs or {})
                raise AtLine(piece.lines[min(answered, len(piece.lines) - 1)], error) from None
            self._under_way.remove(piece.answer)
            await self._write_some(writing, target, outputs)

    async def _write_some(self, writing: Worker, target: int, outputs: Outputs) -> int:
        """Writes the next steps; returns how many they are."""
        steps = len(next(iter(outputs.values()), ()))
        if steps:
            await writing.call(_write, target, self._header + self._lines.text(self._seq, outputs))
            self._header = ""
            self._seq += steps
        return steps

    async def _drop(self, feeder: asyncio.Task[None]) -> None:
        """Ends what is still under way."""
        feeder.cancel()
        for answer in self._under_way:
            answer.cancel()
        await asyncio.gather(feeder, *self._under_way, return_exceptions=True)


def numbered_row(reader: Reader, number: int, line: bytes) -> Row | None:
    """The numbers of a line, of which the first has number 1. Raises Misuse with its number."""
    try:
        return reader.row(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (Misuse, UnicodeDecodeError) as error:
        raise Misuse(f"line {number}: {error}") from None


async def read_lines(reading: Worker, source: int) -> AsyncIterator[list[bytes]]:
    """Whole lines, as many at a time as have come, without their ends."""
    number, rest = 0, b""
    while data := await reading.call(os.read, source, READ_BYTES):
        *whole, rest = (rest + data).split(b"\n")
        if len(rest) > LINE_BYTES:
            raise Misuse(f"line {number + len(whole) + 1}: expected at most {LINE_BYTES} bytes, got more")
        number += len(whole)
        if whole:
            yield whole
    if rest:
        yield [rest]


def _write(target: int, text: str) -> None:
    data = memoryview(text.encode())
    while data:
        data = data[os.write(target, data) :]
