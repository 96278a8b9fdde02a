"""The sentences of the sentiment example: cut as callers' texts are, and none of the tests among those trained on."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from sentiment import fetch
from sentiment.lexicons import afinn
from sentiment.sentences import (
    RATED,
    SOURCES,
    UNKNOWN,
    Sentence,
    rated_sentences,
    rated_words,
    reviews,
    split,
    vocabulary,
    words_of,
)

from support.published import demand

TSV = "1\t2.5\tThe food wasn&#39;t bad -- well-made &amp; GOOD!\r\n2\t-1\tNever again.\r\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files such as are fetched, made of sentences of our own."""
    with tarfile.open(tmp_path / f"{RATED}.tar.gz", "w:gz") as archive:
        for name in SOURCES.values():
            (tmp_path / "ratings").write_text(TSV, newline="")
            archive.add(tmp_path / "ratings", f"{RATED}/{name}_GroundTruth.txt")
    (tmp_path / "vader_lexicon.txt").write_text("good\t1.9\t0.9\t[2]\n:-)\t1.3\t0.5\t[1]\nwell made\t1.5\t0.5\t[1]\n")
    for name in ("imdb", "yelp", "amazon"):
        entries = [{"text": f"Fine {name}.", "class": 1}, {"text": "Bad!", "class": 0}, {"text": "", "class": None}]
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))
    (tmp_path / "labels.json").write_text('{"good": 3, "bad": -3, "wasn\'t": 1}')
    (tmp_path / "negators.json").write_text('{"not": 1}')
    (tmp_path / "emoji.json").write_text('{"\N{SMILING FACE WITH SMILING EYES}": 2}')
    return tmp_path


def test_rated_sentences_are_read_from_the_package(folder: Path) -> None:
    """Of each source in turn, with marks as people typed them."""
    sentences = rated_sentences(folder)
    assert [(sentence.source, sentence.score) for sentence in sentences] == [(name, y) for name in SOURCES for y in (2.5, -1.0)]
    assert sentences[0].text == "The food wasn't bad -- well-made & GOOD!"
    assert sentences[0].words == ("the", "food", "wasn't", "bad", "-", "-", "well-made", "&", "good", "!")


def test_rated_words_are_words(folder: Path) -> None:
    """No emoticons, which are cut into marks, and no phrases."""
    assert rated_words(folder) == [Sentence("good", 1.9, "words")]


def test_reviews_are_good_or_bad(folder: Path) -> None:
    """The empty entry at each file's end is none."""
    assert [(review.text, review.score) for review in reviews(folder)[:3]] == [("Fine imdb.", 1), ("Bad!", -1), ("Fine yelp.", 1)]


def test_what_is_tested_is_not_trained_on() -> None:
    """However it is punctuated; and what comes twice is in one part only."""
    sentences = [Sentence(f"Word{number} is fine.", 1.0, "tweets") for number in range(40)]
    parts = split([*sentences, Sentence("word3 is fine", 2.0, "movies")], [Sentence("Word7 is FINE!!", 1.0, "yelp")])
    every = [*parts.trained, *parts.validation, *parts.held_out]
    assert (parts.tested, parts.repeated) == (1, 1)
    assert (len(parts.trained), len(parts.validation), len(parts.held_out)) == (35, 1, 3)
    assert len({sentence.words[0] for sentence in every}) == 39
    assert "word7" not in {sentence.words[0] for sentence in every}


def test_the_vocabulary_is_what_comes_twice_or_was_rated_by_itself() -> None:
    """And the unknown word, which no text is cut into."""
    sentences = [Sentence("Good food, good!", 1.0, "ours"), Sentence("Food?", 0.0, "ours"), Sentence("yummy", 2.0, "words")]
    assert vocabulary(sentences) == (UNKNOWN, "food", "good", "yummy")
    assert words_of(UNKNOWN) == ("<", "unk", ">")


def test_afinn_is_scored_as_the_package_does(folder: Path) -> None:
    """Sums of a lexicon, with the sign turned after a negator; marks are blanks, but for apostrophes, hyphens and emoji."""
    score = afinn(folder)
    assert score("Good. GOOD!") == 6
    assert score("not good, but not really bad") == -6
    assert score("it wasn't well-made \N{SMILING FACE WITH SMILING EYES}") == 3
    assert score("nothing") == 0


def test_no_review_is_among_the_rated_sentences_kept() -> None:
    """In the packages as they are: README.md tells these numbers."""
    demand(fetch.missing())
    parts = split(rated_sentences(), reviews())
    assert (len(parts.trained), len(parts.validation), len(parts.held_out)) == (15569, 915, 1831)
    assert (parts.tested, parts.repeated, len(rated_words())) == (26, 172, 7248)
