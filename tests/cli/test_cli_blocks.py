"""Text as it comes, cut into tokens: nothing waits longer than it must, and nothing depends on how it came."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream import ModelInfo, TensorInfo, Text
from stepstream.cli.blocks import BLOCK_STEPS, WORD_CHARACTERS, TextReader, of_text, text_of
from stepstream.cli.options import Misuse

WORDS = Text("words", ("a", "b", ",", "<unk>"), unknown=3, lower=True)
PIECES = Text("pieces", ("_", "a", "b", "ab", "_a", "ü", "<unk>"), unknown=6, space="_")
TEXTS = {"words": WORDS, "pieces": PIECES, "bytes": Text("bytes"), "lower bytes": Text("bytes", lower=True)}


async def stdin(*pieces: bytes) -> AsyncIterator[bytes]:
    """Yields stdin as it comes, piece by piece."""
    for piece in pieces:
        yield piece


@given(st.sampled_from(sorted(TEXTS)), st.text("aBüΣ, \n"), st.lists(st.integers(0, 40), max_size=5))
def test_tokens_do_not_depend_on_how_a_text_came(codec: str, given_text: str, cuts: list[int]) -> None:
    """They are those of the whole text, each in the line where it stands."""
    text, data = TEXTS[codec], given_text.encode()
    reader = TextReader(text)
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    read = [each for first, end in pairwise(places) for each in reader.read(data[first:end])]
    read += reader.end()
    assert [token for _, token in read] == text.tokens(given_text).tolist()
    if text.codec != "bytes":
        lines = [(number, token) for number, line in enumerate(given_text.split("\n"), 1) for token in text.tokens(line).tolist()]
        assert read == lines


@pytest.mark.parametrize(("codec", "came", "ready"), [("words", "a b", "a "), ("words", "a b ", "a b "), ("bytes", "a b", "a b")])
def test_a_word_goes_on_its_way_when_white_space_ends_it(codec: str, came: str, ready: str) -> None:
    """A byte at once."""
    assert [token for _, token in TextReader(TEXTS[codec]).read(came.encode())] == TEXTS[codec].tokens(ready).tolist()


async def test_a_long_text_is_cut() -> None:
    """No block has more steps than it may; tokens have names."""
    blocks = [block async for block in of_text(stdin(b"a " * 300, b"b "), WORDS)]
    assert [len(block.lines) for block in blocks] == [BLOCK_STEPS, 300 - BLOCK_STEPS, 1]
    assert blocks[-1].tokens == ["b"]
    assert blocks[-1].inputs.tolist() == [1]


@pytest.mark.parametrize("codec", ["words", "bytes"])
@pytest.mark.parametrize("came", [(b"a\na b ", b"\xff a"), (b"a\na b \xff a",), (b"a\na b \xff",), (b"a\na b \xe2\x82",)])
async def test_what_is_no_utf8_is_told_behind_what_came_before(codec: str, came: tuple[bytes, ...]) -> None:
    """The message names its line, however the text was cut into reads."""
    told, names = of_text(stdin(*came), TEXTS[codec]), []
    with pytest.raises(Misuse, match="line 2: expected UTF-8, got 0x(ff|e2)"):
        while True:
            names += (await anext(told)).tokens or []
    assert names == TEXTS[codec].names(TEXTS[codec].tokens("a\na b "))


async def test_a_text_without_white_space_is_not_read_into_memory() -> None:
    """It is refused behind what came before it, and nothing more is read."""

    async def endless() -> AsyncIterator[bytes]:
        yield b"a\nb "
        while True:
            yield b"x" * (WORD_CHARACTERS // 4)

    blocks = of_text(endless(), WORDS)
    assert (await anext(blocks)).tokens == ["a", "b"]
    with pytest.raises(Misuse, match="line 2: expected at most 1048576 characters between white space, got more"):
        await anext(blocks)


async def test_a_mark_of_byte_order_is_passed_over() -> None:
    """It is no part of the text, as it is none of files of readings."""
    (block,) = [block async for block in of_text(stdin(b"\xef\xbb\xbfa"), WORDS)]
    assert block.tokens == ["a"]


def test_a_model_without_text_takes_none() -> None:
    """It says what the model takes; one with text gives it."""
    token = TensorInfo("token", np.dtype(np.int64), ())
    model = ModelInfo("m", 1, "lstm", (token,), (), (), "", None, 1, 1)
    with pytest.raises(Misuse, match="--text: expected a model of one input, which has text, got m, which takes token"):
        text_of(model)
    told = dataclasses.replace(token, text=WORDS)
    assert text_of(dataclasses.replace(model, inputs=(told,))) == WORDS
    with pytest.raises(Misuse, match="which takes token, token"):
        text_of(dataclasses.replace(model, inputs=(told, token)))
