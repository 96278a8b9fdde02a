"""Trains the `ecg` model: one reading in per step, the distributions of the readings 1, 9 and 27 steps ahead out.

A one-layer LSTM sees each reading and its change; each head predicts quantiles of the change from now until its horizon,
by the pinball loss (Koenker & Bassett, Regression Quantiles, Econometrica 46(1), 1978). The held-out readings are not used.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from readings import HORIZONS, RATE, Millivolts, load, split
from rich.progress import track
from torch import Tensor, nn

from stepstream_server.bundles import Bundle, FeaturesFront, Head, save

LEVELS = (0.025, *(round(0.05 * k, 2) for k in range(1, 20)), 0.975)  # a grid close enough to sample from
HIDDEN = 96
BUNDLE = Path(__file__).parents[2] / "models" / "ecg"
LICENCE = (
    "Weights derived from the MIT-BIH Arrhythmia Database, PhysioNet, which is available under the Open Data Commons "
    "Attribution License 1.0 (ODC-By 1.0): keep this attribution with them. Not a medical device."
)
PROVENANCE = (
    "examples/ecg/train.py on the first four minutes of examples/ecg/data/ecg_mitbih_208.npz: record 208, lead MLII, from 19:35. "
    "Moody & Mark, IEEE Eng. Med. Biol. 20(3):45-50, 2001, doi 10.13026/C2F305; "
    "Goldberger et al., Circulation 101(23):e215-e220, 2000."
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train. The values were chosen on the last fifth of the readings trained on, before those were used as well.

    Four minutes of one heart are few: without dropout, jitter and decay the model learns them by heart, and its bands, far
    too narrow for other minutes, cover 61 instead of 78 of 100 readings 27 ahead.
    """

    iterations: int = 1000
    batch: int = 32  # windows per iteration
    steps: int = 360  # readings per window: 4 s, about six beats
    learning_rate: float = 1e-2  # at the start; falls to 0 along a cosine
    decay: float = 0.1  # of the weights, times the learning rate, per iteration
    dropout: float = 0.4  # share of the LSTM's outputs that the heads do not see
    jitter: float = 0.1  # deviation of the noise added to normalised features
    undisturbed: float = 0.1  # last share of the iterations, without dropout and jitter: bands settle to what is served
    gradient_norm: float = 1.0  # gradients are scaled down to it
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Scaling:
    """What brings features and targets to deviation 1 and features to mean 0, found on the readings trained on. In mV."""

    mean: tuple[float, float]  # of reading and change
    scale: tuple[float, float]
    ahead: dict[str, float]  # output -> deviation of the change until its horizon


class Monitor(nn.Module):
    """Normalised features [batch, steps, 2] -> output -> quantiles [batch, steps, levels] of the scaled change."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, HIDDEN, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.next = nn.Linear(HIDDEN, len(LEVELS))
        self.ahead_9 = nn.Linear(HIDDEN, len(LEVELS))
        self.ahead_27 = nn.Linear(HIDDEN, len(LEVELS))

    def heads(self) -> dict[str, nn.Linear]:
        return {"next": self.next, "ahead_9": self.ahead_9, "ahead_27": self.ahead_27}

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        hidden, _ = self.lstm(features)
        hidden = self.dropout(hidden)
        return {name: head(hidden) for name, head in self.heads().items()}


def scaling_of(readings: Millivolts) -> Scaling:
    """The scaling of readings [n]."""
    changes = np.diff(readings)
    return Scaling(
        mean=(float(readings.mean()), float(changes.mean())),
        scale=(float(readings.std()), float(changes.std())),
        ahead={name: float((readings[ahead:] - readings[:-ahead]).std()) for name, ahead in HORIZONS.items()},
    )


def features_of(readings: Millivolts, scaling: Scaling) -> Tensor:
    """Readings [batch, steps] -> features [batch, steps, 2]. The first change is from 0, as in a session that has just begun."""
    changes = np.diff(readings, axis=-1, prepend=0.0)
    features = (np.stack([readings, changes], axis=-1) - scaling.mean) / scaling.scale
    return torch.from_numpy(features.astype(np.float32))


def windows(readings: Millivolts, scaling: Scaling, schedule: Schedule) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """Features [batch, steps, 2] of windows begun anywhere and, by output, their scaled changes [batch, steps].

    Every window begins at the zero state, as a served session does.
    """
    random = np.random.default_rng(schedule.seed)
    last = len(readings) - schedule.steps - max(HORIZONS.values())
    for _ in range(schedule.iterations):
        rows = random.integers(last + 1, size=(schedule.batch, 1)) + np.arange(schedule.steps)
        seen = readings[rows]
        scaled = {name: (readings[rows + ahead] - seen) / scaling.ahead[name] for name, ahead in HORIZONS.items()}
        yield features_of(seen, scaling), {name: torch.from_numpy(change.astype(np.float32)) for name, change in scaled.items()}


def pinball(quantiles: Tensor, target: Tensor) -> Tensor:
    """Mean pinball loss of quantiles [..., levels] of target [...]: least, at each level, at the true quantile."""
    levels = torch.tensor(LEVELS)
    error = target.unsqueeze(-1) - quantiles
    return torch.maximum(levels * error, (levels - 1) * error).mean()


def train(readings: Millivolts, scaling: Scaling, schedule: Schedule) -> tuple[Monitor, list[float]]:
    """A trained model, and the loss of each iteration. The same schedule gives the same model."""
    torch.manual_seed(schedule.seed)
    model = Monitor(schedule.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.decay)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.iterations)
    losses = []
    batches = windows(readings, scaling, schedule)
    for iteration, (features, targets) in enumerate(track(batches, total=schedule.iterations, description="training")):
        disturbed = iteration < schedule.iterations * (1 - schedule.undisturbed)
        noise = schedule.jitter * torch.randn_like(features) if disturbed else 0.0
        predicted = model.train(disturbed)(features + noise)
        loss = torch.stack([pinball(predicted[name], targets[name]) for name in HORIZONS]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), schedule.gradient_norm)
        optimizer.step()
        falling.step()
        losses.append(loss.item())
    return model.eval(), losses


def save_bundle(model: Monitor, scaling: Scaling, directory: Path) -> Bundle:
    """Writes the model so that it takes plain mV and answers in plain mV."""
    heads = {
        name: Head(
            linear,
            kind="quantiles",
            levels=LEVELS,
            scale=scaling.ahead[name],
            residual_of="mv",
            predicts="mv" if HORIZONS[name] == 1 else "",
            description=f"Quantiles of the reading {1000 * HORIZONS[name] / RATE:.0f} ms ahead, in mV.",
        )
        for name, linear in model.heads().items()
    }
    return save(
        directory,
        model.lstm,
        heads,
        name="ecg",
        version=1,
        front=FeaturesFront(mean=scaling.mean, scale=scaling.scale, differences=True),
        input_name="mv",
        input_description=f"One electrocardiogram reading in mV, lead MLII, {RATE} per second.",
        description="A heartbeat monitor: predicts an electrocardiogram's next readings. A demonstration, not a medical device.",
        licence=LICENCE,
        provenance=PROVENANCE,
        time_step_seconds=1 / RATE,
        extra={"steps_ahead": HORIZONS},
    )


def main() -> None:
    """Trains on the first four fifths and writes the bundle."""
    standard = Schedule()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUNDLE, help="folder of the bundle (default: the shipped one)")
    parser.add_argument("--iterations", type=int, default=standard.iterations, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=standard.seed, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="more may be faster and give other weights; default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    readings, _ = split(load())
    scaling = scaling_of(readings)
    model, losses = train(readings, scaling, Schedule(iterations=options.iterations, seed=options.seed))
    bundle = save_bundle(model, scaling, options.out)
    print(f"loss {np.mean(losses[:50]):.3f} in the first, {np.mean(losses[-50:]):.3f} in the last 50 iterations")
    print(f"wrote {bundle.path}")


if __name__ == "__main__":
    main()
