"""How text becomes tokens and back, piece by piece."""

from __future__ import annotations

import numpy as np
import pytest

from stepstream import InvalidInput, ProtocolError
from stepstream._text import Codec, codec_of

WORDS = ("the", "cat", "sat", ".", "it's", "well-known", ",", "Zoë")


def codec(text: str, words: tuple[str, ...] = ()) -> Codec:
    """Of a model whose text is that."""
    found = codec_of(text, words)
    assert found is not None
    return found


@pytest.mark.parametrize("text", ["plain", "für 10 €", "日本語", "👩‍👩‍👧", "", "\x00\n"])
def test_bytes_come_back_as_they_went_however_they_are_cut(text: str) -> None:
    """A token is a byte of UTF-8, and a piece of text has whole characters only."""
    tokens = codec("bytes").tokens(text)
    assert tokens.tolist() == list(text.encode())
    assert tokens.dtype == np.int64
    for size in (1, 2, 3, 100):
        writer = codec("bytes").writer()
        pieces = [writer.text(tokens[first : first + size]) for first in range(0, len(tokens), size)]
        assert "".join(pieces) + writer.end() == text
        assert "�" not in "".join(pieces)


def test_what_is_no_utf8_is_replaced() -> None:
    """As decoders do: one mark for each maximal piece that cannot be a character, and for one that the end cuts off."""
    writer = codec("bytes").writer()
    assert writer.text(np.array([0xFF, 0x61, 0xE2, 0x82])) == "�a"
    assert writer.begun == b"\xe2\x82"
    assert writer.end() == "�"
    assert writer.begun == b""


def test_a_character_is_completed_by_another_writer() -> None:
    """What one rollout has left, the next one goes on with."""
    assert codec("bytes").writer(b"\xe2\x82").text(np.array([0xAC])) == "€"


def test_text_that_utf8_does_not_have_is_refused() -> None:
    """Half a surrogate pair cannot be sent."""
    with pytest.raises(InvalidInput, match=r"expected characters that UTF-8 has, got '\\ud800' at 2"):
        codec("bytes").tokens("ab\ud800")


def test_words_and_marks_are_tokens() -> None:
    """White space only separates; apostrophes and hyphens within a word belong to it."""
    words = codec("words", WORDS)
    assert words.tokens("the  cat,\nit's well-known. Zoë").tolist() == [0, 1, 6, 4, 5, 3, 7]
    assert words.tokens(" \n").tolist() == []
    writer = words.writer()
    assert [writer.text(np.array(each)) for each in ([0, 1], [6, 4], [3], [])] == [" the cat", ", it's", ".", ""]
    assert (writer.end(), writer.begun) == ("", b"")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("the cats", "text: expected words among the 8 that the model knows, got 'cats'; did you mean 'cat'?"),
        ("the xylophone", "text: expected words among the 8 that the model knows, got 'xylophone'"),
        ("The cat", "text: expected words among the 8 that the model knows, got 'The'; did you mean 'the'?"),
    ],
)
def test_a_word_that_the_model_does_not_know_is_named(text: str, message: str) -> None:
    """With the one that comes closest, if any does."""
    with pytest.raises(InvalidInput) as refused:
        codec("words", WORDS).tokens(text)
    assert refused.value.message == message


def test_models_without_text_have_no_codec() -> None:
    """And one of another kind is not guessed at."""
    assert codec_of("", ()) is None
    with pytest.raises(ProtocolError, match="expected 'bytes' or 'words', got 'syllables'"):
        codec("syllables")
