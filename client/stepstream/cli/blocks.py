"""Steps that `stepstream stream` sends together: cut from lines of readings or from text, as they come. No server."""

from __future__ import annotations

import codecs
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from stepstream import InvalidInput, ModelInfo, Text
from stepstream.cli.columns import Reader, Row, arrays, numbered_row
from stepstream.cli.options import Misuse

BLOCK_STEPS = 256  # a quarter of the default window, so that blocks overlap; a call of its own costs less than one of its steps
WORD_CHARACTERS = 1 << 20  # between white space; a text that has none is refused there rather than read into memory
_PARTS = re.compile(r"\s+|\S+")
_NO_UTF8 = re.compile(r"[\udc80-\udcff]")  # bytes as the handler of errors "surrogateescape" has them

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Block:
    """Steps sent together."""

    lines: list[int]  # the line that each came from
    inputs: Any  # as `Session.chunk` takes them
    tokens: list[str] | None = None  # of text: the name of each


async def of_lines(
    batches: AsyncIterator[list[bytes]], model: ModelInfo, reader: Reader, on_bad_line: Callable[[Misuse], None] | None
) -> AsyncIterator[Block]:
    """A step for each line that is a reading. on_bad_line: told of a line that is none; None: Misuse ends it there."""

    def row(number: int, line: bytes) -> Row | None:
        try:
            return numbered_row(reader, number, line)
        except Misuse as fault:
            if on_bad_line is None or not reader.begun:
                raise
            on_bad_line(fault)
            return None

    first = 1
    async for batch in batches:
        rows = ((number, row(number, line)) for number, line in enumerate(batch, first))
        for lines, block in _cut((number, each) for number, each in rows if each is not None):
            yield Block(lines, arrays(model, block))
        first += len(batch)


async def of_text(pieces: AsyncIterator[bytes], text: Text) -> AsyncIterator[Block]:
    """A step for each token of a text. Raises Misuse, with its line, for what is no UTF-8 or what the text has no token for."""
    reader = TextReader(text)
    async for piece in pieces:
        for block in _cut(reader.read(piece)):
            yield _block_of_tokens(text, *block)
    for block in _cut(reader.end()):
        yield _block_of_tokens(text, *block)


def text_of(model: ModelInfo) -> Text:
    """The text of a model's one input. Raises Misuse for a model that takes none."""
    if len(model.inputs) != 1 or model.text is None:
        names = ", ".join(each.name for each in model.inputs)
        raise Misuse(f"--text: expected a model of one input, which has text, got {model.name}, which takes {names}")
    return model.text


def _block_of_tokens(text: Text, lines: list[int], tokens: list[int]) -> Block:
    numbers = np.array(tokens, np.int64)
    return Block(lines, numbers, text.names(numbers))


class TextReader:
    """Turns text into tokens as far as it has come: of words, and of pieces of words, as far as white space ends them."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self._at_once = text.codec == "bytes" and not text.lower  # how a letter is lowered may depend on the next one
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._begun = ""  # a word that may go on
        self._line = 1

    def read(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Further tokens, each behind the line that it stands in. Raises Misuse behind those before it for what has none."""
        came = self._begun + self._decoder.decode(data)
        end = len(came) if self._at_once else _behind_white_space(came)
        self._begun = came[end:]
        yield from self._tokens(came[:end])
        if len(self._begun) > WORD_CHARACTERS:
            raise Misuse(f"line {self._line}: expected at most {WORD_CHARACTERS} characters between white space, got more")

    def end(self) -> Iterator[tuple[int, int]]:
        """The tokens that are left."""
        yield from self._tokens(self._begun + self._decoder.decode(b"", final=True))

    def _tokens(self, text: str) -> Iterator[tuple[int, int]]:
        for part in _PARTS.findall(text):
            if wrong := _NO_UTF8.search(part):
                raise Misuse(f"line {self._line}: expected UTF-8, got {wrong[0].encode(errors='surrogateescape')[0]:#x}")
            try:
                tokens = self._text.tokens(part)
            except InvalidInput as error:
                raise Misuse(f"line {self._line}: {error.message}") from None
            yield from ((self._line, token) for token in tokens.tolist())
            self._line += part.count("\n")


def _behind_white_space(text: str) -> int:
    """The place at which the last word begins, which may go on."""
    return len(text) - len(_last_word(text))


def _last_word(text: str) -> str:
    return "" if not text or text[-1].isspace() else text.rsplit(maxsplit=1)[-1]


def _cut(items: Iterable[tuple[int, Item]]) -> Iterator[tuple[list[int], list[Item]]]:
    """Line numbers and items, so many together as a block may have. A fault is raised behind the items before it."""
    left = iter(items)
    while True:
        lines: list[int] = []
        block: list[Item] = []
        fault: Misuse | None = None
        try:
            for line, item in islice(left, BLOCK_STEPS):
                lines.append(line)
                block.append(item)
        except Misuse as error:
            fault = error
        if block:
            yield lines, block
        if fault is not None:
            raise fault
        if len(block) < BLOCK_STEPS:
            return
