"""Sentences that people rated, to learn from, and reviews, to be tested on, as the fetched packages have them."""

from __future__ import annotations

import html
import json
import random
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sentiment.fetch import FOLDER

WORD = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")  # what the codec `words` cuts a text into
UNKNOWN = "<unk>"  # stands for every word that the vocabulary lacks; no text is cut into it

RATED = "hutto_ICWSM_2014"  # the archive in VADER's source package, and the folder in it
SOURCES = {"movies": "movieReviewSnippets", "products": "amazonReviewSnippets", "tweets": "tweets"}
REVIEWS = ("imdb", "yelp", "amazon")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text and what people make of it."""

    text: str
    score: float  # mean of twenty ratings or so, from -4 to 4; of a review, -1 or 1
    source: str  # a key of SOURCES, "words", or one of REVIEWS

    @property
    def words(self) -> tuple[str, ...]:
        return words_of(self.text)


@dataclass(frozen=True, slots=True)
class Parts:
    """The rated sentences: to learn from, to choose a recipe by, and to measure with in the end."""

    trained: list[Sentence]
    validation: list[Sentence]  # a twentieth
    held_out: list[Sentence]  # a tenth
    tested: int  # left out, since the tests have them
    repeated: int  # left out, since they come twice


def words_of(text: str) -> tuple[str, ...]:
    """The tokens of a text in small letters: words with their apostrophes and hyphens, and every other mark by itself."""
    return tuple(WORD.findall(text.lower()))


def rated_sentences(folder: Path = FOLDER) -> list[Sentence]:
    """All rated sentences of SOURCES, in the order of the package."""
    sentences = []
    with tarfile.open(folder / f"{RATED}.tar.gz") as archive:
        for source, name in SOURCES.items():
            file = archive.extractfile(f"{RATED}/{name}_GroundTruth.txt")
            if file is None:
                raise ValueError(f"{RATED}.tar.gz: {name}_GroundTruth.txt is no file")
            for line in file.read().decode().splitlines():
                _, score, text = line.split("\t")
                sentences.append(Sentence(html.unescape(text), float(score), source))
    return sentences


def rated_words(folder: Path = FOLDER) -> list[Sentence]:
    """The words of VADER's lexicon, which people rated one by one on the same scale; not its emoticons and phrases."""
    lines = [line.split("\t") for line in (folder / "vader_lexicon.txt").read_text().splitlines()]
    entries = [Sentence(text, float(score), "words") for text, score, *_ in lines]
    return [entry for entry in entries if len(entry.words) == 1 and entry.words[0][0].isalpha()]


def reviews(folder: Path = FOLDER) -> list[Sentence]:
    """The three sets of reviews, 500 good and 500 bad sentences each."""
    return [
        Sentence(each["text"], 2.0 * each["class"] - 1, name)
        for name in REVIEWS
        for each in json.loads((folder / f"{name}.json").read_text())
        if each["class"] is not None  # each file ends with an entry that is empty
    ]


def split(sentences: Sequence[Sentence], tests: Iterable[Sentence], seed: int = 0) -> Parts:
    """Parts of the rated sentences at random, each sentence once, and none that the tests have; marks do not count."""
    tested = {_bare(sentence) for sentence in tests}
    untested = [sentence for sentence in sentences if _bare(sentence) not in tested]
    kept = list({_bare(sentence): sentence for sentence in untested}.values())
    random.Random(seed).shuffle(kept)
    held_out, validation = len(kept) // 10, len(kept) // 20
    return Parts(
        kept[held_out + validation :],
        kept[held_out : held_out + validation],
        kept[:held_out],
        tested=len(sentences) - len(untested),
        repeated=len(untested) - len(kept),
    )


def _bare(sentence: Sentence) -> tuple[str, ...]:
    """Words alone, or the marks of a sentence that has no words."""
    return tuple(word for word in sentence.words if word[0].isalnum()) or sentence.words


def vocabulary(sentences: Iterable[Sentence]) -> tuple[str, ...]:
    """UNKNOWN, then in order the words that come twice or more, or were rated by themselves: a word's place is its token."""
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(sentence.words if len(sentence.words) > 1 else 2 * sentence.words)
    return (UNKNOWN, *sorted(word for word, count in counts.items() if count > 1))
