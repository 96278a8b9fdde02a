"""Measures the trained `digits` bundle on synthetic voices that it never heard and on two people, as it is served.

Prints the tables of README.md. Features are computed as the client computes them, scores by the server's own arithmetic.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `speech.…`, from wherever it is started

from speech import fetch, voices
from speech.held_out import JOINED, person, synthetic
from speech.joined import Utterance, noisy, one_after_the_other
from speech.scores import Score, score, serve
from speech.voices import WORDS

from stepstream_server.bundles import Bundle, load

BUNDLE = Path(__file__).parents[2] / "models" / "digits"
NOISES = (20, 10)  # dB below the speech


def measure(bundle: Bundle) -> dict[str, Score]:
    """Who speaks -> how they were heard."""
    said = synthetic() | {name: person(name) for name in fetch.PEOPLE}
    return {name: heard(bundle, utterances) for name, utterances in said.items()}


def heard(bundle: Bundle, utterances: Sequence[Utterance]) -> Score:
    """How utterances are heard, each in a session of its own."""
    return score(utterances, serve(bundle, utterances))


def hardships(bundle: Bundle, said: Mapping[str, Sequence[Utterance]]) -> str:
    """README.md's table of errors in one long session and in noise. said: by who speaks, words joined."""
    lines = ["| error | in one session | " + " | ".join(f"noise at -{level} dB" for level in NOISES) + " |"]
    lines.append("|---|" + "---|" * (1 + len(NOISES)))
    for name, utterances in said.items():
        random = np.random.default_rng(0)
        ways = [[one_after_the_other(utterances)], *([noisy(each, level, random) for each in utterances] for level in NOISES)]
        lines.append(f"| {name} | " + " | ".join(f"{100 * heard(bundle, way).error:.1f} %" for way in ways) + " |")
    return "\n".join(lines)


def tables(scores: Mapping[str, Score]) -> str:
    """Both tables of README.md."""
    lines = ["| who speaks | digits | error | delay, p50 | p99 |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {each.digits} | {100 * each.error:.1f} % | {_delays(each)} |" for name, each in scores.items()]
    lines += ["", "| heard rightly | " + " | ".join(WORDS) + " |", "|---|" + "---|" * len(WORDS)]
    lines += [
        f"| {name} | " + " | ".join(f"{100 * share:.0f} %" for share in each.right.values()) + " |"
        for name, each in scores.items()
    ]
    return "\n".join(lines)


def _delays(score: Score) -> str:
    if not len(score.delays):
        return "– | –"
    return " | ".join(f"{1000 * delay:.0f} ms" for delay in np.percentile(score.delays, [50, 99]))


def main() -> None:
    """Serves all utterances to the bundle, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="default: the shipped one")
    options = parser.parse_args()
    if why := fetch.missing() or voices.missing():
        sys.exit(why)
    bundle = load(options.bundle)
    print(tables(measure(bundle)))
    print("\n" + hardships(bundle, {JOINED: synthetic()[JOINED]} | {name: person(name) for name in fetch.PEOPLE}))


if __name__ == "__main__":
    main()
