"""The two that are compared with: VADER, rules over a lexicon, and AFINN, a lexicon, as their packages score a text."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

from sentiment.fetch import FOLDER

Scorer = Callable[[str], float]  # below 0: the text is bad

MARKS = re.compile(r"""[.,/#!?$%^&*;:{}=_`"~()]""")  # what the npm package `sentiment` leaves out (lib/tokenize.js)


def vader(folder: Path = FOLDER) -> Scorer:
    """VADER's compound score, from -1 to 1, by the module as it was fetched."""
    spec = importlib.util.spec_from_file_location("vaderSentiment", folder / "vaderSentiment.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder / 'vaderSentiment.py'} is no module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    analyzer = module.SentimentIntensityAnalyzer()
    return lambda text: float(analyzer.polarity_scores(text)["compound"])


def afinn(folder: Path = FOLDER) -> Scorer:
    """The sum of AFINN's scores of a text's words, each with its sign turned after one of a few negators.

    As the npm package `sentiment` has it (lib/index.js, lib/tokenize.js and languages/en/scoring-strategy.js).
    """
    labels: dict[str, int] = {}
    for name in ("labels", "emoji"):
        labels |= json.loads((folder / f"{name}.json").read_text())
    negators = json.loads((folder / "negators.json").read_text())

    def score(text: str) -> float:
        words = MARKS.sub(" ", text.lower()).split()
        before = ("", *words)
        return float(sum(-labels[w] if b in negators else labels[w] for b, w in zip(before, words, strict=False) if w in labels))

    return score
