"""Measures the trained `ecg` bundle on the held-out readings, as it is served, beside two plain predictors.

Prints the tables of README.md and draws `held_out.png`. Predictions are made by the server's own arithmetic, one step after
another through one session; every method is scored on the same readings, from the first one on.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from beats import find_beats
from picture import draw
from readings import HORIZONS, RATE, Millivolts, load, split
from scores import Quantiles, score, surprise

from stepstream_server.backends import build
from stepstream_server.bundles import Bundle
from stepstream_server.bundles import load as load_bundle
from stepstream_server.config import BackendSettings

HERE = Path(__file__).parent
BUNDLE = HERE.parents[1] / "models" / "ecg"
PICTURE = HERE / "held_out.png"


def serve(bundle: Bundle, readings: Millivolts) -> dict[str, Quantiles]:
    """Output -> quantiles [n, levels] predicted at each of the readings [n] of one session, stepped one by one."""
    backend = build(bundle.spec, bundle.weights, BackendSettings(), slots=1, max_batch=1)
    slot = backend.allocate(1)
    steps = readings.astype(np.float32).reshape(-1, 1, 1, 1)  # each step: [batch 1, length 1, F 1]
    answers = [backend.collect(backend.launch("step", slot, (step,), 1)).outputs for step in steps]
    return {
        output.name: np.array([answer[index][0, 0] for answer in answers], np.float64)
        for index, output in enumerate(bundle.spec.outputs)
    }


def levels_of(bundle: Bundle) -> dict[str, list[float]]:
    """Output -> the level of each of its quantiles."""
    return {head.name: list(head.levels) for head in bundle.spec.heads}


def tables(predicted: Mapping[str, Quantiles], levels: Mapping[str, list[float]]) -> str:
    """Both tables of README.md, of what was predicted at each held-out reading."""
    trained, held_out = split(load())
    beats = find_beats(held_out)
    scores = [score(output, predicted[output], levels[output], trained, held_out) for output in HORIZONS]
    surprises = [surprise(output, predicted[output], levels[output], held_out, beats) for output in HORIZONS]
    lines = [
        "| ahead | persistence | AR(32) | LSTM median | AR(32) pinball | LSTM pinball | 80 % band covers |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {_ahead(s.output)} | {s.persistence:.3f} | {s.autoregression:.3f} | {s.model:.3f} "
            f"| {s.autoregression_pinball:.4f} | {s.model_pinball:.4f} | {s.coverage:.3f} |"
            for s in scores
        ),
        "",
        "| ahead | in wide beats | in ordinary beats | between beats |",
        "|---|---|---|---|",
        *(
            f"| {_ahead(s.output)} | {s.wide:.0%}, {s.wide_excess:.3f} mV | {s.ordinary:.0%}, {s.ordinary_excess:.3f} mV "
            f"| {s.rest:.0%}, {s.rest_excess:.3f} mV |"
            for s in surprises
        ),
    ]
    return "\n".join(lines)


def _ahead(output: str) -> str:
    steps = HORIZONS[output]
    return f"`{output}`: {steps} ({1000 * steps / RATE:.0f} ms)"


def main() -> None:
    """Serves the held-out readings to the bundle, prints the tables and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="default: the shipped one")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="default: %(default)s")
    options = parser.parse_args()
    held_out = split(load())[1]
    bundle = load_bundle(options.bundle)
    predicted, levels, beats = serve(bundle, held_out), levels_of(bundle), find_beats(held_out)
    print(tables(predicted, levels))
    print(f"\n{len(held_out)} readings, {len(beats)} beats, {sum(beat.wide for beat in beats)} of them wide")
    draw(held_out, predicted["ahead_9"], levels["ahead_9"], beats, options.picture)
    print(f"wrote {options.picture}")


if __name__ == "__main__":
    main()
