"""Text to tokens and back, piece by piece, as a model's `text` says. Pure: no connection, no session."""

from __future__ import annotations

import codecs
import difflib
import re
from abc import ABC, abstractmethod
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stepstream._errors import InvalidInput, ProtocolError

Tokens = NDArray[np.int64]

WORDS = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")  # words, also it's and well-known; every other mark by itself
MARK = re.compile(r"[^\w\s]")


class Writer(Protocol):
    """Tokens to text, piece by piece."""

    def text(self, tokens: Tokens) -> str:
        """What the tokens add to the text; "" while a character is not complete."""

    def end(self) -> str:
        """What an end of the text here adds."""

    @property
    def begun(self) -> bytes:
        """The beginning of a character that is not complete."""


class Codec(ABC):
    """How text becomes tokens and back."""

    @abstractmethod
    def tokens(self, text: str) -> Tokens:
        """[T]. Raises InvalidInput for what the model has no tokens for."""

    @abstractmethod
    def writer(self, begun: bytes = b"") -> Writer:
        """Writes what follows some text that is there already, and the beginning of a character if one was left."""


class BytesCodec(Codec):
    """A token is a byte of UTF-8."""

    def tokens(self, text: str) -> Tokens:
        try:
            return np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        except UnicodeEncodeError as error:
            raise InvalidInput(f"text: expected characters that UTF-8 has, got {text[error.start]!r} at {error.start}") from None

    def writer(self, begun: bytes = b"") -> Writer:
        return BytesWriter(begun)


class BytesWriter:
    """Writes whole characters only; bytes that are none become U+FFFD."""

    def __init__(self, begun: bytes) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder.decode(begun)

    def text(self, tokens: Tokens) -> str:
        return self._decoder.decode(tokens.astype(np.uint8).tobytes())

    def end(self) -> str:
        return self._decoder.decode(b"", final=True)

    @property
    def begun(self) -> bytes:
        return self._decoder.getstate()[0]


class WordsCodec(Codec):
    """A token is a word or a punctuation mark. White space only separates them."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words
        self._numbers = {word: number for number, word in enumerate(words)}

    def tokens(self, text: str) -> Tokens:
        return np.array([self._number(word) for word in WORDS.findall(text)], np.int64)

    def writer(self, begun: bytes = b"") -> Writer:
        return WordsWriter(self._words)

    def _number(self, word: str) -> int:
        number = self._numbers.get(word)
        if number is None:
            hint = "".join(f"; did you mean {close!r}?" for close in difflib.get_close_matches(word, self._words, 1))
            raise InvalidInput(f"text: expected words among the {len(self._words)} that the model knows, got {word!r}{hint}")
        return number


class WordsWriter:
    """Writes a space before each word, since a rollout always goes on from something; none before a punctuation mark."""

    begun = b""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words

    def text(self, tokens: Tokens) -> str:
        words = (self._words[token] for token in tokens.tolist())
        return "".join(word if MARK.fullmatch(word) else f" {word}" for word in words)

    def end(self) -> str:
        return ""


def codec_of(text: str, words: tuple[str, ...]) -> Codec | None:
    """The codec that a model names, None for "". Raises ProtocolError for one that this client does not know."""
    match text:
        case "":
            return None
        case "bytes":
            return BytesCodec()
        case "words":
            return WordsCodec(words)
    raise ProtocolError(f"text: expected 'bytes' or 'words', got {text!r}")
