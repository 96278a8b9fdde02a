"""Trains the `digits` model: two frames of log-mel energies in per step, scores of the blank and eleven words out.

An LSTM learns at first where single words are, step by step, in utterances that grow; then by CTC (Graves et al., Connectionist
Temporal Classification, 2006) which words were said, and by itself when to say so. Its speakers are synthetic (`voices.py`), the
features are augmented anew each time (`augment.py`). Ctrl-C loses little: the next start goes on from the last checkpoint in
`build/digits`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `speech.…`, from wherever it is started

import checkpoint
from speech.batches import SORTED, Batch, batches, scaling
from speech.corpus import CACHE, Speaker, corpus
from speech.features import BANDS, FRAMES, STEP_SECONDS
from speech.voices import WORDS

from stepstream_server.bundles import Bundle, FeaturesFront, Head, save

BUNDLE = Path(__file__).parents[2] / "models" / "digits"
LABELS = ("-", *WORDS)  # the first is CTC's blank
EVERY = 25 * SORTED  # updates from one checkpoint to the next
LICENCE = "Apache-2.0, as the project: the voices that the weights are made from are synthetic."
PROVENANCE = "examples/speech/train.py on digits said by espeak-ng and flite."


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train."""

    updates: int = 4000
    growing: int = 400  # of them, in which utterances grow and each step is told its word: CTC alone stands still for long
    batch: int = 32  # utterances
    hidden: int = 160
    learning_rate: float = 3e-3  # at the height
    warming: int = 100  # updates until the learning rate has risen to its height; then it falls to 0 along a cosine
    decay: float = 0.01  # of the weights, times the learning rate, per update
    gradient_norm: float = 1.0  # gradients are scaled down to it
    seed: int = 0

    def rate(self, update: int) -> float:
        """The learning rate of an update."""
        falling = (1 + math.cos(math.pi * update / self.updates)) / 2
        return self.learning_rate * min(1.0, (update + 1) / self.warming) * falling


class Recogniser(nn.Module):
    """Steps [batch, steps, FRAMES * BANDS] -> scores [batch, steps, labels]."""

    mean: Tensor
    scale: Tensor

    def __init__(self, hidden: int, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))
        self.lstm = nn.LSTM(FRAMES * BANDS, hidden, batch_first=True)
        self.symbol = nn.Linear(hidden, len(LABELS))
        with torch.no_grad():  # the memory begins open; torch's order is i, f, g, o
            self.lstm.get_parameter("bias_ih_l0")[hidden : 2 * hidden] = 1.0

    def forward(self, steps: Tensor) -> Tensor:
        hidden, _ = self.lstm((steps - self.mean) / self.scale)
        scores: Tensor = self.symbol(hidden)
        return scores


def placed_loss(model: Recogniser, batch: Batch) -> Tensor:
    """Cross-entropy per step of known label."""
    return nn.functional.cross_entropy(model(batch.steps).transpose(1, 2), batch.track)


def ctc_loss(model: Recogniser, batch: Batch) -> Tensor:
    """CTC's loss per word."""
    likelihoods = model(batch.steps).log_softmax(-1).transpose(0, 1)
    total = nn.functional.ctc_loss(likelihoods, batch.labels, batch.lengths, batch.counts, reduction="sum")
    return total / max(1, int(batch.counts.sum()))


def train(speakers: list[Speaker], schedule: Schedule, path: Path, until: int | None = None) -> tuple[Recogniser, list[float]]:
    """A model, trained on from the checkpoint at `path`, and the losses of the updates done now. The same schedule gives the same
    model.

    until: the update behind which to stop, a multiple of EVERY, as if interrupted; the last one if None.
    """
    torch.manual_seed(schedule.seed)
    model = Recogniser(schedule.hidden, *scaling(speakers, schedule.seed))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=schedule.decay)
    recipe = str(asdict(schedule))
    told, done, losses = checkpoint.told_by(path), 0, []
    if told.get("recipe") == recipe:
        checkpoint.restore(path, {"model": model}, optimizer)
        done = int(told["updates"])
    updates = range(done, schedule.updates if until is None else until)
    with Progress() as progress:
        task = progress.add_task("training", total=schedule.updates, completed=done)
        drawn = batches(speakers, schedule.batch, updates, schedule.growing, schedule.seed)
        for update, batch in zip(updates, drawn, strict=True):
            loss = (placed_loss if update < schedule.growing else ctc_loss)(model, batch)
            _descend(model, optimizer, loss, schedule.rate(update), schedule.gradient_norm)
            losses.append(loss.item())
            if (update + 1) % EVERY == 0:
                checkpoint.write(path, {"model": model}, optimizer, {"recipe": recipe, "updates": str(update + 1)})
            progress.update(task, advance=1, description=f"training, loss {np.mean(losses[-100:]):.3f}")
    return model.eval(), losses


def _descend(model: Recogniser, optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, norm: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), norm)
    optimizer.step()


def save_bundle(model: Recogniser, schedule: Schedule, directory: Path) -> Bundle:
    """Writes the model so that it takes log energies as `features.LogMel` makes them."""
    front = FeaturesFront(mean=tuple(model.mean.tolist()), scale=tuple(model.scale.tolist()))
    recipe = f"{schedule.updates} updates of {schedule.batch} utterances, seed {schedule.seed}."
    return save(
        directory,
        model.lstm,
        {"symbol": Head(model.symbol, kind="classes", labels=LABELS, description="Scores of CTC's labels; - is the blank.")},
        name="digits",
        version=1,
        front=front,
        input_name="frames",
        input_description="32 log-mel energies of each of two frames, 10 ms apart, of speech at 8 kHz.",
        description="English digits, recognised while they are spoken. Trained on synthetic voices only.",
        licence=LICENCE,
        provenance=f"{PROVENANCE} {recipe}",
        time_step_seconds=STEP_SECONDS,
    )


def main() -> None:
    """Has the voices speak where they have not, trains, and writes the bundle."""
    standard = Schedule()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUNDLE, help="folder of the bundle (default: the shipped one)")
    parser.add_argument("--updates", type=int, default=standard.updates, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=standard.seed, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="more may be faster and give other weights; default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    schedule = Schedule(updates=options.updates, seed=options.seed)
    speakers = corpus()
    began = time.process_time()
    model, losses = train(speakers, schedule, CACHE / "training.safetensors")
    bundle = save_bundle(model, schedule, options.out)
    if losses:
        minutes = (time.process_time() - began) / 60
        print(f"loss {np.mean(losses[-100:]):.3f} per word; {len(losses)} updates took {minutes:.1f} min of processor time")
    print(f"wrote {bundle.path}")


if __name__ == "__main__":
    main()
