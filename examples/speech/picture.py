"""Draws a string of digits as the model hears it: its energies, what the model thinks, and when each word ended and was heard."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `speech.…`, from wherever it is started

from speech import fetch
from speech.decoding import Decoder
from speech.evaluate import BUNDLE
from speech.features import BANDS, FRAMES, RATE, STEP_SECONDS, Floats, LogMel
from speech.joined import Utterance, join, trim
from speech.recordings import read
from speech.scores import out_at, serve

from stepstream_server.bundles import load

PICTURE = Path(__file__).parent / "digits.png"
HISS = -6.0  # log energy that is drawn as silence
SAID = (7, 0, 3, 5, 1)  # places in voices.WORDS


def utterance() -> Utterance:
    """The utterance that is drawn: Allison Smith says SAID."""
    files = fetch.files("Allison Smith")
    return join([(word, trim(read(files[word]))) for word in SAID], random.Random(0))


def draw(said: Utterance, scores: Floats, labels: tuple[str, ...], path: Path) -> None:
    """Writes a PNG. scores: [steps, labels] of the utterance's steps."""
    seconds = len(said.samples) / RATE
    energies = LogMel().feed(said.samples).reshape(-1, BANDS)
    chances = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
    times = [out_at(step) for step in range(len(scores))]

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1))
    extent = (0, len(energies) * STEP_SECONDS / FRAMES, 0, BANDS)
    above.imshow(energies.T, origin="lower", aspect="auto", cmap="magma", interpolation="nearest", vmin=HISS, extent=extent)
    above.set(ylabel="mel band", yticks=[])
    for word in sorted({label for _, label in Decoder().feed(scores)} | {1 + word for word in said.words}):
        below.plot(times, chances[:, word], linewidth=1.2, label=labels[word])
    below.plot(times, chances[:, 0], color="#bbbbbb", linewidth=0.8, label="blank")
    for step, label in Decoder().feed(scores):
        below.annotate(labels[label], (out_at(step), 1.02), fontsize=9, ha="left", annotation_clip=False)
        below.axvline(out_at(step), color="#222222", linewidth=0.8)
    for axes in (above, below):
        for end in said.ends:
            axes.axvline(end / RATE, color="#3182bd", linewidth=0.9, linestyle="--")
    below.set(
        xlabel="s; dashed: a word has ended, solid: its label is out", ylabel="probability", xlim=(0, seconds), ylim=(0, 1.15)
    )
    below.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


def main() -> None:
    """Draws the picture of README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=PICTURE, help="default: %(default)s")
    options = parser.parse_args()
    if why := fetch.missing():
        sys.exit(why)
    bundle, said = load(BUNDLE), utterance()
    draw(said, serve(bundle, [said])[0], bundle.spec.heads[0].labels, options.picture)
    print(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
