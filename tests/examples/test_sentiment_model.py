"""The shipped sentiment bundle: what it declares, how its score runs through sentences, and how often it is right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from sentiment import evaluate, fetch
from sentiment.evaluate import BUNDLE, SHOWN, accuracy_table, ratings_table
from sentiment.running import running_scores, tokens_of
from sentiment.sentences import UNKNOWN, WORD, words_of

from stepstream_server.bundles import Bundle, load
from stepstream_server.spec import EmbeddingFront, cell_model
from support.published import demand

README = (Path(evaluate.__file__).parent / "README.md").read_text()


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The bundle that is shipped."""
    return load(BUNDLE)


def test_the_bundle_is_what_the_contract_says(bundle: Bundle) -> None:
    """A word in per step, one score out; any text is words, and words that it does not know are one of them."""
    spec = bundle.spec
    (word,), (head,) = spec.inputs, spec.heads
    assert (spec.name, spec.version, cell_model(spec).cell.kind) == ("sentiment", 1, "lstm")
    assert isinstance(cell_model(spec).front, EmbeddingFront)
    assert (word.name, word.dtype, word.shape) == ("word", "int64", ())
    assert (head.name, head.kind, head.width) == ("score", "regression", 1)
    assert word.text is not None
    assert (word.text.codec, word.text.lower, word.text.unknown, word.limit) == (
        "words",
        True,
        UNKNOWN,
        len(word.text.vocabulary),
    )
    assert "MIT" in spec.licence
    assert "Hutto and Gilbert" in spec.provenance
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) <= 2_400_000


def test_every_word_of_the_vocabulary_can_come_out_of_a_text(bundle: Bundle) -> None:
    """All but the unknown one."""
    text = bundle.spec.inputs[0].text
    assert text is not None
    assert [word for word in text.vocabulary if words_of(word) != (word,)] == [UNKNOWN]


def running(bundle: Bundle, text: str) -> Mapping[str, float]:
    """Word -> the score after it; of a word that comes twice, the later."""
    (scores,) = running_scores(bundle, [text])
    return dict(zip(WORD.findall(text), scores.tolist(), strict=True))


@pytest.mark.parametrize("text", ["This movie is not great.", "The battery is not good.", "I do not recommend this place."])
def test_the_score_turns_at_not(bundle: Bundle, text: str) -> None:
    """It falls at the word, and what would be good without it is bad with it."""
    scores = running(bundle, text)
    words = list(scores)
    assert scores["not"] < scores[words[words.index("not") - 1]] - 0.3
    assert scores["."] < 0 < running(bundle, text.replace("do not ", "").replace(" not", ""))["."]


@pytest.mark.parametrize(
    ("text", "good_in_the_end"),
    [
        ("The food was cold, but the staff was wonderful.", True),
        ("The story is slow, but I loved every minute.", True),
        ("I wanted to love it, but it is a waste of time.", False),
        ("The screen is beautiful, but the battery is terrible.", False),
    ],
)
def test_the_score_turns_at_but(bundle: Bundle, text: str, good_in_the_end: bool) -> None:
    """At the word it moves towards the other side, where it ends."""
    scores = running(bundle, text)
    assert (scores[","] > 0) is not good_in_the_end
    assert (scores["but"] > scores[","]) is good_in_the_end
    assert (scores["."] > 0) is good_in_the_end


def test_scores_do_not_depend_on_what_else_is_computed(bundle: Bundle) -> None:
    """Texts of one length share a launch; each is as it is by itself."""
    texts = [*SHOWN, "Fine.", "Awful.", "So so!"]
    for text, scores in zip(texts, running_scores(bundle, texts), strict=True):
        np.testing.assert_array_equal(scores, running_scores(bundle, [text])[0])
        assert len(scores) == len(words_of(text))


def test_an_unknown_word_is_read_as_one(bundle: Bundle) -> None:
    """The token of UNKNOWN, whatever it is."""
    (tokens,) = tokens_of(bundle, ["A qwertyish film"])
    assert bundle.spec.inputs[0].text is not None
    assert [bundle.spec.inputs[0].text.vocabulary[token] for token in tokens] == ["a", UNKNOWN, "film"]


def figures(table: str) -> dict[str, list[float]]:
    """A table's rows: the first column, and the numbers behind it."""
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {row[0]: [float(cell) for cell in row[1:]] for row in rows}


def readme_table(head: str) -> dict[str, list[float]]:
    """The figures of README.md's table that begins with these words."""
    begin = README.index(head)
    return figures(README[begin : README.index("\n\n", begin)])


@pytest.fixture(scope="module")
def measured(bundle: Bundle) -> dict[str, dict[str, list[float]]]:
    """The figures of each table that evaluate.py prints, by the words that it begins with in README.md."""
    demand(fetch.missing())
    return {"| | imdb |": figures(accuracy_table(bundle)), "| | sentences |": figures(ratings_table(bundle))}


def test_the_readme_shows_what_is_measured(measured: dict[str, dict[str, list[float]]]) -> None:
    """A rounding of another processor may tip a sentence."""
    for head, rows in measured.items():
        shown = readme_table(head)
        assert list(shown) == list(rows)
        for row, numbers in rows.items():
            np.testing.assert_allclose(shown[row], numbers, atol=0.003)


def test_the_model_is_ahead_of_both_lexicons(measured: dict[str, dict[str, list[float]]]) -> None:
    """On each of the three sets of reviews."""
    ours, *lexicons = measured["| | imdb |"].values()
    assert all(mine > theirs for lexicon in lexicons for mine, theirs in zip(ours, lexicon, strict=True))


def test_the_readme_shows_how_the_scores_run(bundle: Bundle) -> None:
    """Words and scores, in the form in which live.py prints them."""
    shown = re.findall(r"^(?:\S+ [+-]\d\.\d ?)+$", README, re.MULTILINE)
    assert shown == [
        " ".join(f"{word} {score:+.1f}" for word, score in zip(WORD.findall(text), scores, strict=True))
        for text, scores in zip(SHOWN, running_scores(bundle, SHOWN), strict=True)
    ]
