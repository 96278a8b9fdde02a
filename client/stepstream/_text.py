"""Text to tokens and back, piece by piece, as an input's `text` says. Pure: no connection, no session."""

from __future__ import annotations

import codecs
import difflib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stepstream._errors import InvalidInput, ProtocolError, shown

Tokens = NDArray[np.int64]

WORDS = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")  # words, also it's and well-known; every other mark by itself
HINTED = 50_000  # entries at most among which the nearest to a word is looked for: a tenth of a second or two
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


@dataclass(frozen=True)
class Text:
    """How text becomes the tokens of an input, and back."""

    codec: str
    """bytes: a token is a byte of UTF-8. words: a token is a word or a punctuation mark, and white space only separates them.
    pieces: each word between white space, with the sign `space` in front of it, is cut from left to right into the longest
    entries of the vocabulary."""
    vocabulary: tuple[str, ...] = ()
    """words and pieces: entry by token."""
    unknown: int | None = None
    """The token of what the vocabulary lacks; None: text with such is refused."""
    lower: bool = False
    """Text is put into lower case first."""
    space: str = ""
    """pieces: the sign that stands for the space in front of a word."""

    def tokens(self, text: str) -> Tokens:
        """[T] int64. Raises InvalidInput for what the model has no tokens for, ProtocolError for a codec that this client does
        not know."""
        return self._codec.tokens(text.lower() if self.lower else text)

    def names(self, tokens: Tokens) -> list[str]:
        """Each token by itself: its entry in the vocabulary; of bytes the character, or its number if that is not printable."""
        return [self._codec.name(token) for token in tokens.tolist()]

    def writer(self, begun: bytes = b"") -> Writer:
        """Writes what follows some text that is there already, and the beginning of a character if one was left."""
        return self._codec.writer(begun)

    @cached_property
    def _codec(self) -> Codec:
        """Made once, since it has a place for each entry."""
        match self.codec:
            case "bytes":
                return BytesCodec()
            case "words":
                return WordsCodec(self.vocabulary, self.unknown)
            case "pieces":
                return PiecesCodec(self.vocabulary, self.unknown, self.space)
        raise ProtocolError(f"text: expected 'bytes', 'words' or 'pieces', got {self.codec!r}")


class Codec(ABC):
    """One way in which text is cut into tokens."""

    @abstractmethod
    def tokens(self, text: str) -> Tokens:
        """Cuts as `Text.tokens` tells."""

    @abstractmethod
    def name(self, token: int) -> str:
        """One token, as `Text.names` has it."""

    @abstractmethod
    def writer(self, begun: bytes) -> Writer:
        """A writer of what follows, as `Text.writer` tells."""


class BytesCodec(Codec):
    """A token is a byte of UTF-8."""

    def tokens(self, text: str) -> Tokens:
        try:
            return np.frombuffer(text.encode(), np.uint8).astype(np.int64)
        except UnicodeEncodeError as error:
            raise InvalidInput(f"text: expected characters that UTF-8 has, got {text[error.start]!r} at {error.start}") from None

    def name(self, token: int) -> str:
        return chr(token) if 0x20 <= token < 0x7F else f"\\x{token:02x}"

    def writer(self, begun: bytes) -> Writer:
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


class Listed(Codec):
    """Tokens are entries of a vocabulary."""

    def __init__(self, vocabulary: tuple[str, ...], unknown: int | None) -> None:
        self._vocabulary = vocabulary
        self._numbers = {entry: number for number, entry in enumerate(vocabulary)}
        self._unknown = unknown

    def name(self, token: int) -> str:
        return self._vocabulary[token]


class WordsCodec(Listed):
    """A token is a word or a punctuation mark. White space only separates them."""

    def tokens(self, text: str) -> Tokens:
        return np.array([self._number(word) for word in WORDS.findall(text)], np.int64)

    def writer(self, begun: bytes) -> Writer:
        return WordsWriter(self._vocabulary)

    def _number(self, word: str) -> int:
        number = self._numbers.get(word, self._unknown)
        if number is None:
            expected = f"words among the {len(self._vocabulary)} that the model knows"
            raise InvalidInput(f"text: expected {expected}, got {shown(word)}{self._hint(word)}")
        return number

    def _hint(self, word: str) -> str:
        if len(self._vocabulary) > HINTED:
            return ""
        return "".join(f"; did you mean {close!r}?" for close in difflib.get_close_matches(word, self._vocabulary, 1))


class EntriesWriter(ABC):
    """Writes entries, which are whole characters."""

    begun = b""

    def __init__(self, vocabulary: tuple[str, ...]) -> None:
        self._vocabulary = vocabulary

    def text(self, tokens: Tokens) -> str:
        return "".join(self._written(self._vocabulary[token]) for token in tokens.tolist())

    def end(self) -> str:
        return ""

    @abstractmethod
    def _written(self, entry: str) -> str:
        """The characters that an entry adds to the text."""


class WordsWriter(EntriesWriter):
    """Writes a space before each word, since a rollout always goes on from something; none before a punctuation mark."""

    def _written(self, entry: str) -> str:
        return entry if MARK.fullmatch(entry) else f" {entry}"


class PiecesCodec(Listed):
    """A token is a piece of a word. The longest one is taken each time, as WordPiece does (Song et al. 2021, arXiv 2012.15524).
    The sign that stands in front of words is a character as any other."""

    def __init__(self, vocabulary: tuple[str, ...], unknown: int | None, space: str) -> None:
        super().__init__(vocabulary, unknown)
        self._space = space
        self._lengths = sorted(set(map(len, vocabulary)), reverse=True)

    def tokens(self, text: str) -> Tokens:
        return np.array([token for word in text.split() for token in self._cut(self._space + word)], np.int64)

    def writer(self, begun: bytes) -> Writer:
        return PiecesWriter(self._vocabulary, self._space)

    def _cut(self, word: str) -> list[int]:
        tokens, first = [], 0
        while first < len(word):
            pieces = (word[first : first + length] for length in self._lengths)
            piece = next((piece for piece in pieces if piece in self._numbers), "")
            tokens.append(self._numbers[piece] if piece else self._lacked(word, first))
            first += len(piece) or 1
        return tokens

    def _lacked(self, word: str, place: int) -> int:
        if self._unknown is None:
            written = word.removeprefix(self._space)
            lacked = written[max(0, place - len(self._space))]  # the first character, where no piece begins with the sign
            raise InvalidInput(f"text: expected characters that the model has pieces for, got {lacked!r} in {shown(written)}")
        return self._unknown


class PiecesWriter(EntriesWriter):
    """Writes pieces as they are, and a space for the sign in front of words."""

    def __init__(self, vocabulary: tuple[str, ...], space: str) -> None:
        super().__init__(vocabulary)
        self._space = space

    def _written(self, entry: str) -> str:
        return entry.replace(self._space, " ") if self._space else entry
