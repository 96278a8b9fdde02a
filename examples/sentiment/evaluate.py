"""Measures the trained `sentiment` bundle on reviews that it was not trained on, beside VADER and AFINN, and on held-out ratings.

Prints the tables of README.md and draws `score.png`. Scores are computed by the server's own arithmetic, from the bundle as it
lies on disk.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `sentiment.…`, from wherever it is started

from sentiment.fetch import missing
from sentiment.lexicons import Scorer, afinn, vader
from sentiment.picture import draw
from sentiment.running import running_scores
from sentiment.sentences import REVIEWS, SOURCES, Sentence, rated_sentences, reviews, split

from stepstream_server.bundles import Bundle, load

HERE = Path(__file__).parent
BUNDLE = HERE.parents[1] / "models" / "sentiment"
CLEAR = 0.5  # ratings nearer to 0 have no sign worth guessing
SHOWN = (
    "This movie is great.",
    "This movie is not great.",
    "The food was cold, but the staff was wonderful.",
    "I wanted to love it, but it is a complete waste of time!",
)

Scores = NDArray[np.float64]


def scores_of(bundle: Bundle, sentences: Sequence[Sentence]) -> Scores:
    """The bundle's score after the last word of each sentence: [n]."""
    return np.array([scores[-1] for scores in running_scores(bundle, [sentence.text for sentence in sentences])], np.float64)


def lexicon_scores(score: Scorer, sentences: Sequence[Sentence]) -> Scores:
    """A lexicon's score of each sentence: [n]."""
    return np.array([score(sentence.text) for sentence in sentences], np.float64)


def accuracy_table(bundle: Bundle) -> str:
    """README.md's table of reviews: the share whose sign is guessed. A score of 0, as where a lexicon has no word, is bad."""
    tested = reviews()
    guesses = {
        "`sentiment`": scores_of(bundle, tested),
        "VADER 3.3.2": lexicon_scores(vader(), tested),
        "AFINN, as in npm's sentiment 5.0.2": lexicon_scores(afinn(), tested),
    }
    lines = [f"| | {' | '.join(REVIEWS)} |", "|---|" + "---|" * len(REVIEWS)]
    for name, scores in guesses.items():
        right = (scores > 0) == (_ratings(tested) > 0)
        shares = [right[_of(source, tested)].mean() for source in REVIEWS]
        lines.append(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")
    return "\n".join(lines)


def ratings_table(bundle: Bundle) -> str:
    """README.md's table of held-out ratings: correlation, and the share of clear ratings whose sign is guessed."""
    held_out = split(rated_sentences(), reviews()).held_out
    ratings = _ratings(held_out)
    guesses = scores_of(bundle, held_out), lexicon_scores(vader(), held_out)
    lines = ["| | sentences | r | sign | VADER: r | VADER: sign |", "|---|---|---|---|---|---|"]
    groups = {"all": np.ones(len(held_out), bool), **{source: _of(source, held_out) for source in SOURCES}}
    for name, chosen in groups.items():
        cells = [f"{figure:.3f}" for scores in guesses for figure in agreement(scores[chosen], ratings[chosen])]
        lines.append(f"| {name} | {chosen.sum()} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def agreement(scores: Scores, ratings: Scores) -> tuple[float, float]:
    """Pearson's r, and the share of the ratings beyond CLEAR whose sign is guessed."""
    clear = np.abs(ratings) > CLEAR
    return float(np.corrcoef(scores, ratings)[0, 1]), float(((scores > 0) == (ratings > 0))[clear].mean())


def _ratings(sentences: Sequence[Sentence]) -> Scores:
    return np.array([sentence.score for sentence in sentences])


def _of(source: str, sentences: Sequence[Sentence]) -> NDArray[np.bool_]:
    return np.array([sentence.source == source for sentence in sentences])


def main() -> None:
    """Prints both tables and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="default: the shipped one")
    parser.add_argument("--pictures", type=Path, default=HERE, help="folder for the picture (default: this one)")
    options = parser.parse_args()
    if why := missing():
        sys.exit(why)
    bundle = load(options.bundle)
    print(accuracy_table(bundle), ratings_table(bundle), sep="\n\n", flush=True)
    draw(SHOWN, running_scores(bundle, SHOWN), options.pictures / "score.png")
    print(f"\nwrote score.png to {options.pictures}")


if __name__ == "__main__":
    main()
