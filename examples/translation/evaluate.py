"""Measures how many held-out phrases are translated exactly: by the `translate` bundle, as it is served, and by its rival.

Prints the tables of README.md and some errors, and draws `length.png`. The rival without attention is not shipped: it is measured
by torch from the checkpoint that `train.py --fixed` leaves in build/translation.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `translation.…`, from wherever it is started

from translation.picture import draw_length
from translation.pieces import END, encode, encode_translation, join
from translation.served import translate

from stepstream_server.bundles import Bundle, load

if TYPE_CHECKING:
    from translation.phrases import Kind

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
BUNDLE = ROOT / "models" / "translate"
RIVAL = ROOT / "build" / "translation" / "fixed.safetensors"
LISTED = HERE / "held_out.tsv"  # the first of them, for who has neither Babel nor num2words
KINDS: tuple[Kind, ...] = ("numbers", "dates", "times")
COUNT, COUNT_LISTED = 1000, 80  # translations of each kind
SHOWN = ((2, 4), (5, 6), (7, 8), (9, 10), (11, 14))  # pieces of a source, the tag among them, of the table's rows


@dataclass(frozen=True, slots=True)
class Trial:
    """One translation that is asked for, and the right one."""

    kind: Kind
    source: str
    language: str
    translation: str


def held_out(count: int) -> list[Trial]:
    """So many translations of held-out items of each kind, none twice, each between two drawn languages. Always the same ones."""
    from translation.phrases import draw

    trials: list[Trial] = []
    for kind in KINDS:
        random, found = Random(kind), dict[Trial, None]()
        while len(found) < count:
            if (phrase := draw(random, kind)).held_out:
                found[Trial(kind, *random.choice(list(phrase.pairs())))] = None
        trials += found
    return trials


def listed() -> list[Trial]:
    """The first held-out translations of each kind, as they are kept beside this script."""
    with LISTED.open(newline="", encoding="utf-8") as file:
        return [Trial(*row) for row in csv.reader(file, delimiter="\t")]  # type: ignore[arg-type]


def write_list() -> None:
    """Keeps the first held-out translations of each kind."""
    with LISTED.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows(map(astuple, held_out(COUNT_LISTED)))


def vocabulary_of(bundle: Bundle) -> dict[str, int]:
    """The bundle's pieces, and their tokens."""
    text = bundle.spec.inputs[0].text
    return {piece: token for token, piece in enumerate(text.vocabulary if text else ())}


def by_attention(bundle: Bundle, trials: Sequence[Trial]) -> list[list[int]]:
    """Translations by the bundle, as tokens without the end."""
    tokens = vocabulary_of(bundle)
    return translate(bundle, [encode(each.source, each.language, tokens) for each in trials], tokens[END])


def by_fixed_vector(tokens: dict[str, int], trials: Sequence[Trial]) -> list[list[int]]:
    """Translations by the rival, as tokens without the end."""
    import checkpoint
    from translation.network import Translator

    network = Translator(len(tokens), attends=False).eval()
    checkpoint.restore(RIVAL, {"network": network})
    return network.translate([encode(each.source, each.language, tokens) for each in trials], tokens[END])


def exact(written: Sequence[list[int]], trials: Sequence[Trial], tokens: dict[str, int]) -> NDArray[np.bool_]:
    """Marks translations that are right to the last piece [trials]."""
    right = [encode_translation(each.translation, tokens)[:-1] for each in trials]
    return np.array([one == other for one, other in zip(written, right, strict=True)])


def table_by_kind(hits: dict[str, NDArray[np.bool_]], trials: Sequence[Trial]) -> str:
    """README.md's table of exact match by kind. hits: by network."""
    kinds = np.array([each.kind for each in trials])
    in_figures = np.array([each.source.isdigit() for each in trials])
    rows = [(kind, kinds == kind) for kind in KINDS]
    return _table(hits, "held-out phrases", [*rows, ("those of the numbers that are in figures", in_figures)])


def table_by_length(hits: dict[str, NDArray[np.bool_]], lengths: NDArray[np.int64]) -> str:
    """README.md's table of exact match by the length of the source."""
    rows = [(f"{least} to {most}", (lengths >= least) & (lengths <= most)) for least, most in SHOWN]
    return _table(hits, "pieces of the source", rows)


def _table(hits: dict[str, NDArray[np.bool_]], head: str, rows: Sequence[tuple[str, NDArray[np.bool_]]]) -> str:
    lines = [f"| {head} | translations | {' | '.join(hits)} |", "|---|---|" + "---|" * len(hits)]
    for name, chosen in rows:
        shares = " | ".join(f"{100 * hit[chosen].mean():.1f} %" for hit in hits.values())
        lines.append(f"| {name} | {chosen.sum()} | {shares} |")
    return "\n".join(lines)


def errors(written: Sequence[list[int]], trials: Sequence[Trial], tokens: dict[str, int], count: int = 8) -> str:
    """Some of what is wrong."""
    pieces = list(tokens)
    wrong = np.flatnonzero(~exact(written, trials, tokens)).tolist()
    wrong = wrong[:: max(1, len(wrong) // count)][:count]
    lines = (
        f"{trials[at].source} <{trials[at].language}>: {join(pieces[token] for token in written[at])} "
        f"(right: {trials[at].translation})"
        for at in wrong
    )
    return "\n".join(lines)


def main() -> None:
    """Prints tables and some errors, and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="default: the shipped one")
    parser.add_argument("--count", type=int, default=COUNT, help="translations of each kind; default: %(default)s")
    parser.add_argument("--picture", type=Path, default=HERE / "length.png", help="default: the one beside this script")
    parser.add_argument("--list", action="store_true", help="writes held_out.tsv, which tests use, and measures nothing")
    options = parser.parse_args()
    if options.list:
        return write_list()
    trials = held_out(options.count)
    bundle = load(options.bundle)
    tokens = vocabulary_of(bundle)
    written = {"attention": by_attention(bundle, trials)}
    if RIVAL.exists():
        written["fixed vector"] = by_fixed_vector(tokens, trials)
    else:
        print(f"{RIVAL.relative_to(ROOT)} is not there: `python examples/translation/train.py --fixed` trains the rival")
    hits = {name: exact(each, trials, tokens) for name, each in written.items()}
    lengths = np.array([len(encode(each.source, each.language, tokens)) for each in trials])
    print(f"{table_by_kind(hits, trials)}\n\n{table_by_length(hits, lengths)}\n")
    print(errors(written["attention"], trials, tokens))
    draw_length(hits, lengths, options.picture)
    print(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
