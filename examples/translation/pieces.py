"""Pieces of words: the vocabulary of `translate`, and how a text is cut into it.

A piece is a digit, a mark, a word, or a part of one that other words have too: "siebenundneunzig" is "sieben", "und", "neunzig".
The sign in front of it says that a word begins there. A source has it before each of its words, a translation before each but
the first, so that no space stands before what is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

SIGN = "▁"  # U+2581
END = "</s>"  # closes a translation
_GERMAN = (
    *("null", "eins", "ein", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"),
    *("dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn", "zwanzig", "dreißig", "vierzig"),
    *("fünfzig", "sechzig", "siebzig", "achtzig", "neunzig", "hundert", "tausend", "und"),
)  # of which compounds are made; behind the last one may stand what makes it an ordinal
_LONGEST_FIRST = sorted(_GERMAN, key=len, reverse=True)
_COMPOUND = re.compile("|".join(f"{part}(?:s?ten?$)?" for part in _LONGEST_FIRST))
_PART = re.compile(r"\d|-?[^\W\d]+(?:'[^\W\d]+)*|[^\w\s]")


def tag(language: str) -> str:
    """The tag that closes a source, as it stands in a text."""
    return f"<{language}>"


def parts(word: str) -> list[str]:
    """A word as the parts that the vocabulary is made of."""
    found = []
    for part in _PART.findall(word):
        compound = _COMPOUND.findall(part)
        found += compound if "".join(compound) == part else [part]
    return found


def cut(text: str, vocabulary: Mapping[str, int], *, source: bool) -> list[int]:
    """Tokens of a text: words, each with the sign in front, as the longest pieces from left to right. Those of a translation have
    none before the first.

    Raises KeyError for a character that begins no piece.
    """
    tokens = []
    for at, word in enumerate(text.split()):
        rest = word if not at and not source else SIGN + word
        while rest:
            length = next((n for n in range(len(rest), 0, -1) if rest[:n] in vocabulary), 0)
            if not length:
                raise KeyError(f"{text!r}: expected a text of the model's pieces, got {rest!r}")
            tokens.append(vocabulary[rest[:length]])
            rest = rest[length:]
    return tokens


def encode(source: str, language: str, tokens: Mapping[str, int]) -> list[int]:
    """A source, in lower case, with the tag of the language that it is to be translated into, as tokens."""
    return cut(f"{source} {tag(language)}".lower(), tokens, source=True)


def encode_translation(text: str, tokens: Mapping[str, int]) -> list[int]:
    """A translation with its end, as tokens."""
    return [*cut(text, tokens, source=False), tokens[END]]


def join(pieces: Iterable[str]) -> str:
    """Pieces as a text."""
    return "".join(pieces).replace(SIGN, " ")


def until(text: list[int], end: int) -> list[int]:
    """The tokens before the end."""
    return text[: text.index(end)] if end in text else text


def collect(sources: Iterable[str], translations: Iterable[str], languages: Sequence[str]) -> tuple[str, ...]:
    """The vocabulary: the end, the tags, and all pieces of these texts, in order; of sources in lower case."""
    words = {SIGN + word for text in sources for word in text.lower().split()}
    words |= {SIGN * bool(at) + word for text in translations for at, word in enumerate(text.split())}
    found = set()
    for word in words:
        first, *others = parts(word.removeprefix(SIGN))
        found |= {SIGN + first if word.startswith(SIGN) else first, *others}
    return (END, *(SIGN + tag(language) for language in languages), *sorted(found))
