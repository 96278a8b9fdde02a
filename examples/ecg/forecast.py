"""Measures forecasts that the trained `ecg` bundle samples: many paths, each rolled out on its own draws, reading after reading.

Prints the table of README.md's section on them. Steps are the server's own arithmetic, and so are the draws: each forecast is
what a rollout of as many paths would give that begins behind that reading.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from evaluate import BUNDLE, levels_of, serve
from numpy.typing import NDArray
from readings import HORIZONS, RATE, Millivolts, load, split
from scores import BAND, Quantiles, autoregression

from stepstream_server.backends import build
from stepstream_server.bundles import Bundle
from stepstream_server.bundles import load as load_bundle
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import NO_SEQ, NO_STREAM, Commit, Generate, Ints
from stepstream_server.engine.rollouts.sampling import Draws

PATHS = 100
STEPS = max(HORIZONS.values())
EVERY = 10  # held-out readings: a forecast begins behind each of these
_TOGETHER = 8  # forecasts rolled out in one batch
_BY = "next"  # the output that is drawn from


@dataclass(frozen=True, slots=True)
class Sampled:
    """How forecasts so many readings ahead came true, beside other predictors at the same readings. Errors in mV."""

    output: str  # of the model, which predicts the same directly
    coverage: float  # share of readings inside the middle 80 % of the paths
    paths: float  # mean absolute errors: of the median over paths,
    direct: float  # of the model's own median for this horizon,
    autoregression: float
    persistence: float


def sample(bundle: Bundle, readings: Millivolts, origins: Ints, paths: int = PATHS) -> NDArray[np.float32]:
    """Draws [origins, STEPS, paths] of forecasts, each from behind one of the readings that a session is stepped through.
    origins: where, ascending."""
    backend = build(bundle.spec, bundle.weights, BackendSettings(), slots=1 + _TOGETHER * paths, max_batch=_TOGETHER * paths)
    session, slots = backend.allocate(1), backend.allocate(_TOGETHER * paths)
    head = bundle.spec.rollout_head
    if head is None or head.name != _BY:
        raise ValueError(f"{bundle.spec.name}: expected output {_BY!r} to predict the input")
    draws, by = Draws(head, len(slots)), bundle.spec.heads.index(head)
    found, stepped = [], 0
    for start in range(0, len(origins), _TOGETHER):
        together = origins[start : start + _TOGETHER]
        rows = np.arange(len(together) * paths)
        for place, origin in enumerate(together.tolist()):
            chunk = readings[stepped : origin + 1].astype(np.float32).reshape(1, -1, 1)
            outputs = backend.collect(backend.launch("step", session, (chunk,), chunk.shape[1])).outputs
            stepped = origin + 1
            mine = rows[place * paths : (place + 1) * paths]
            backend.copy(session.repeat(paths), slots[mine])
            draws.begin(mine, _rollout(paths, seed=origin))
            draws.last[mine] = outputs[by][:, -1]
        drawn = np.empty((STEPS, len(rows)), np.float32)
        for step in range(STEPS):
            drawn[step] = draws.draw(rows, np.repeat(together + 1 + step, paths))[:, 0]
            values = drawn[step].reshape(-1, 1, 1)
            draws.last[rows] = backend.collect(backend.launch("step", slots[rows], (values,), 1)).outputs[by][:, 0]
        found.append(drawn.reshape(STEPS, len(together), paths).transpose(1, 0, 2))
    return np.concatenate(found)


def measure(bundle: Bundle, direct: dict[str, Quantiles], origins: Ints, paths: int = PATHS) -> list[Sampled]:
    """Forecasts from these held-out readings, scored at each horizon. direct: what the model predicts at every held-out one."""
    trained, held_out = split(load())
    drawn = sample(bundle, held_out, origins, paths)
    return [_score(output, drawn, direct[output], levels_of(bundle)[output], trained, held_out, origins) for output in HORIZONS]


def origins_of(held_out: Millivolts, every: int = EVERY) -> Ints:
    """Every so many readings, as long as all that is forecast behind them is known."""
    return np.arange(0, len(held_out) - STEPS, every)


def table(sampled: list[Sampled]) -> str:
    """As README.md has it."""
    lines = [
        "| ahead | 80 % of paths cover | median of paths | direct median | AR(32) | persistence |",
        "|---|---|---|---|---|---|",
        *(
            f"| {HORIZONS[s.output]} ({1000 * HORIZONS[s.output] / RATE:.0f} ms) | {s.coverage:.3f} | {s.paths:.3f} "
            f"| {s.direct:.3f} | {s.autoregression:.3f} | {s.persistence:.3f} |"
            for s in sampled
        ),
    ]
    return "\n".join(lines)


def _rollout(paths: int, seed: int) -> Generate:
    """A rollout as the model predicts, as its caller would ask for it."""
    return Generate(NO_STREAM, 0, "", b"", NO_SEQ, Commit.NONE, (), STEPS, 0.0, temperature=1.0, seed=seed, paths=paths)


def _score(
    output: str,
    drawn: NDArray[np.float32],
    direct: Quantiles,
    levels: list[float],
    trained: Millivolts,
    held_out: Millivolts,
    origins: Ints,
) -> Sampled:
    ahead = HORIZONS[output]
    truth = held_out[origins + ahead]
    low, median, high = np.quantile(drawn[:, ahead - 1].astype(np.float64), [BAND[0], 0.5, BAND[1]], axis=1)
    linear = autoregression(trained, held_out, ahead)[0]
    return Sampled(
        output=output,
        coverage=float(((low <= truth) & (truth <= high)).mean()),
        paths=float(np.abs(truth - median).mean()),
        direct=float(np.abs(truth - direct[origins, levels.index(0.5)]).mean()),
        autoregression=float(np.abs(truth - linear[origins]).mean()),
        persistence=float(np.abs(truth - held_out[origins]).mean()),
    )


def main() -> None:
    """Serves the held-out readings to the bundle, samples forecasts and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="default: the shipped one")
    parser.add_argument("--every", type=int, default=EVERY, help="a forecast from every so many readings; default: %(default)s")
    options = parser.parse_args()
    held_out = split(load())[1]
    bundle = load_bundle(options.bundle)
    origins = origins_of(held_out, options.every)
    print(table(measure(bundle, serve(bundle, held_out), origins)))
    print(f"\n{len(origins)} forecasts of {PATHS} paths, {STEPS} steps each")


if __name__ == "__main__":
    main()
