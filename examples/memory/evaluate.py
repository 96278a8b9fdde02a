"""Measures the trained `memory` bundle and its rivals on held-out stories: recall against distance, gradients against lag.

Prints the tables of README.md and draws `recall.png` and `gradients.png`. Recall is measured by the server's own arithmetic, on
the bundles as they lie on disk; gradients by torch, on their weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `memory.…`, from wherever it is started

from memory.gradients import Ratios, gradient_ratios
from memory.grammar import SHORTEST, VOCABULARY
from memory.network import restore, untrained_lstm
from memory.pictures import draw_gradients, draw_recall
from memory.recall import CHANCE, recall
from memory.train import ENTRANTS, LONGEST

from stepstream_server.bundles import Bundle, load

HERE = Path(__file__).parent
TRAINED_TO = SHORTEST + LONGEST  # the longest distance trained on
FARTHEST = 300
SHOWN = (5, 10, 20, 30, 50, 100, 200, 300)  # distances of the table
STORIES = 1000  # for each of them
STORIES_DRAWN = 200  # for each distance of the picture
LAGS = (1, 10, 30, 100)
STORIES_DERIVED = 20  # whose gradients are averaged, one of each country


def recall_table(bundles: Mapping[str, Bundle], distances: tuple[int, ...] = SHOWN) -> str:
    """README.md's table of recall, or some of its rows. bundles: by entrant."""
    shares = {name: recall(bundle, distances, STORIES) for name, bundle in bundles.items()}
    lines = ["| words between | " + " | ".join(ENTRANTS[name].title for name in shares) + " |", "|---|" + "---|" * len(shares)]
    for row, distance in enumerate(distances):
        beyond = " (beyond training)" if distance > TRAINED_TO else ""
        lines.append(f"| {distance}{beyond} | " + " | ".join(f"{100 * share[row]:.1f} %" for share in shares.values()) + " |")
    return "\n".join(lines)


def gradients(bundles: Mapping[str, Bundle]) -> dict[str, Ratios]:
    """Curve -> ratios by lag, from 0 to the longest distance trained on. bundles: by entrant."""
    ratios = {
        f"{ENTRANTS[name].title}: {state}": ratio
        for name, bundle in bundles.items()
        for state, ratio in gradient_ratios(restore(bundle), TRAINED_TO, STORIES_DERIVED).items()
    }
    for name, bias in (("LSTM, untrained, forget bias 5", 5.0), ("LSTM, untrained", None)):
        untrained = untrained_lstm(len(VOCABULARY), bias)
        ratios[f"{name}: c"] = gradient_ratios(untrained, TRAINED_TO, STORIES_DERIVED)["c"]
    return ratios


def gradient_table(ratios: Mapping[str, NDArray[np.float64]]) -> str:
    """README.md's table of gradients."""
    lines = ["| | " + " | ".join(f"lag {lag}" for lag in LAGS) + " |", "|---|" + "---|" * len(LAGS)]
    lines += [f"| {name} | " + " | ".join(f"{ratio[lag]:.1e}" for lag in LAGS) + " |" for name, ratio in ratios.items()]
    return "\n".join(lines)


def main() -> None:
    """Prints both tables and draws both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, default=HERE, help="folder for the pictures (default: this one)")
    options = parser.parse_args()
    bundles = {name: load(entrant.path) for name, entrant in ENTRANTS.items()}
    print(recall_table(bundles), flush=True)
    ratios = gradients(bundles)
    print("\n" + gradient_table(ratios), flush=True)
    draw_gradients(ratios, options.pictures / "gradients.png")
    distances = range(SHORTEST, FARTHEST + 1)
    shares = {ENTRANTS[name].title: recall(bundle, distances, STORIES_DRAWN) for name, bundle in bundles.items()}
    draw_recall(distances, shares, TRAINED_TO, CHANCE, options.pictures / "recall.png")
    print(f"wrote recall.png and gradients.png to {options.pictures}")


if __name__ == "__main__":
    main()
