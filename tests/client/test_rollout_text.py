"""How text becomes tokens and back, piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream import InvalidInput, ProtocolError, Text
from stepstream._text import HINTED

WORDS = ("the", "cat", "sat", ".", "it's", "well-known", ",", "Zoë")


@pytest.mark.parametrize("text", ["plain", "für 10 €", "日本語", "👩‍👩‍👧", "", "\x00\n"])
def test_bytes_come_back_as_they_went_however_they_are_cut(text: str) -> None:
    """A token is a byte of UTF-8, and a piece of text has whole characters only."""
    tokens = Text("bytes").tokens(text)
    assert tokens.tolist() == list(text.encode())
    assert tokens.dtype == np.int64
    for size in (1, 2, 3, 100):
        writer = Text("bytes").writer()
        pieces = [writer.text(tokens[first : first + size]) for first in range(0, len(tokens), size)]
        assert "".join(pieces) + writer.end() == text
        assert "�" not in "".join(pieces)


def test_what_is_no_utf8_is_replaced() -> None:
    """As decoders do: one mark for each maximal piece that cannot be a character, and for one that the end cuts off."""
    writer = Text("bytes").writer()
    assert writer.text(np.array([0xFF, 0x61, 0xE2, 0x82])) == "�a"
    assert writer.begun == b"\xe2\x82"
    assert writer.end() == "�"
    assert writer.begun == b""


def test_a_character_is_completed_by_another_writer() -> None:
    """What one rollout has left, the next one goes on with."""
    assert Text("bytes").writer(b"\xe2\x82").text(np.array([0xAC])) == "€"


def test_text_that_utf8_does_not_have_is_refused() -> None:
    """Half a surrogate pair cannot be sent."""
    with pytest.raises(InvalidInput, match=r"expected characters that UTF-8 has, got '\\ud800' at 2"):
        Text("bytes").tokens("ab\ud800")


def test_words_and_marks_are_tokens() -> None:
    """White space only separates; apostrophes and hyphens within a word belong to it."""
    words = Text("words", WORDS)
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
        Text("words", WORDS).tokens(text)
    assert refused.value.message == message


def test_the_nearest_word_is_looked_for_among_few() -> None:
    """Among very many it would take seconds; the word that is not known is named all the same."""
    many = Text("words", tuple(f"word{number}" for number in range(HINTED + 1)))
    with pytest.raises(InvalidInput) as refused:
        many.tokens("wordd7")
    assert refused.value.message == f"text: expected words among the {HINTED + 1} that the model knows, got 'wordd7'"


def test_text_of_another_kind_is_not_guessed_at() -> None:
    """A newer server may have one."""
    with pytest.raises(ProtocolError, match="expected 'bytes', 'words' or 'pieces', got 'syllables'"):
        Text("syllables").tokens("")


def test_unknown_words_have_a_token_of_their_own() -> None:
    """They have it if the model says so; lower case is made first, and a token is shown by its entry."""
    text = Text("words", ("<unk>", "the", "cat"), unknown=0, lower=True)
    assert text.tokens("The CAT, the <unk>").tolist() == [1, 2, 0, 1, 0, 0, 0]
    assert text.names(np.array([1, 0])) == ["the", "<unk>"]
    assert Text("bytes").names(np.array([0x61, 0x20, 0x0A, 0xC3])) == ["a", " ", "\\x0a", "\\xc3"]


PIECES = ("</s>", "_<fr>", "_", "_am", "a", "m", "am", "dritt", "_dritt", "en", "e", "n", "März", "_le")
SIGNED = Text("pieces", PIECES, space="_")


def test_pieces_are_the_longest_there_are() -> None:
    """From left to right, behind the sign that stands for the space in front of a word; white space only separates."""
    named = [SIGNED.names(SIGNED.tokens(text)) for text in ("am  dritten\nMärz <fr>", "ammen", " ")]
    assert named == [["_am", "_dritt", "en", "_", "März", "_<fr>"], ["_am", "m", "en"], []]


def test_pieces_are_written_as_they_are() -> None:
    """The sign becomes a space, however the tokens are cut; a text that begins within a word has no space in front."""
    writer = SIGNED.writer()
    tokens = [PIECES.index(piece) for piece in ("am", "_dritt", "en", "_", "März")]
    assert "".join(writer.text(np.array([token])) for token in tokens) + writer.end() == "am dritten März"


def test_a_character_that_begins_no_piece() -> None:
    """It is unknown where the model has a token for that, else refused by name."""
    with pytest.raises(InvalidInput, match="expected characters that the model has pieces for, got 'x' in 'amx'"):
        SIGNED.tokens("amx")
    with pytest.raises(InvalidInput, match="got 'x' in 'xam'"):
        Text("pieces", ("am", "_am"), space="_").tokens("am xam")
    known = Text("pieces", (*PIECES, "<unk>"), unknown=len(PIECES), space="_")
    assert known.names(known.tokens("xxam")) == ["_", "<unk>", "<unk>", "am"]


def test_the_longest_entry_does_not_matter_to_other_words() -> None:
    """Entries are looked for by the lengths that there are, of which a vocabulary has few."""
    text = Text("pieces", ("_", "a", "ab", "b" * 100_000, "<unk>"), unknown=4, space="_")
    assert text.tokens("c" * 20_000 + "aba").tolist() == [0, *[4] * 20_000, 2, 1]
    assert text.tokens("b" * 100_001).tolist() == [0, 3, 4]


@pytest.mark.parametrize("text", [Text("words", WORDS), SIGNED])
def test_a_message_shows_the_beginning_of_a_long_word(text: Text) -> None:
    """A screenful of it would help nobody."""
    with pytest.raises(InvalidInput, match="'xxx.*\\.\\.\\.") as refused:
        text.tokens("x" * 1_000_000)
    assert len(refused.value.message) < 200


@given(st.lists(st.sampled_from(["am", "dritten", "März", "<fr>", "men", "le"]), max_size=6))
def test_words_of_pieces_come_back(words: list[str]) -> None:
    """Pieces are written as the words that they were cut from, with one space in front of each."""
    tokens = SIGNED.tokens(" ".join(words).replace("le", "am"))
    assert SIGNED.writer().text(tokens) == "".join(f" {word}" for word in words).replace("le", "am")
