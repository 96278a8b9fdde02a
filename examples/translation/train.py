"""Trains the `translate` model, and its rival without attention: equally long, on the same pairs in the same order.

Each reads a phrase in one language and learns to write it in another; `phrases.py` makes phrases without end. Held-out items are
not used. A training goes on where it was broken off, by Ctrl-C or a kill, to the same weights.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from rich.progress import Progress
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `translation.…`, from wherever it is started

import checkpoint
from translation.network import HIDDEN, SLOTS, Step, Translator
from translation.phrases import LANGUAGES, phrases, vocabulary_texts
from translation.pieces import END, SIGN, collect, encode, encode_translation

from stepstream_server.bundles import Bundle, Input, Output, TextSpec, save_program

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "models" / "translate"
BUILD = ROOT / "build" / "translation"
GRADIENT_NORM = 1.0  # gradients are scaled down to it
BETAS = (0.9, 0.99)  # of Adam: a shorter memory than its default, since there are few updates
Pair = tuple[list[int], list[int]]  # source with its tag, and translation with its end, as tokens


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train. The batch and the rate were chosen by short runs on what is trained on."""

    updates: int = 6_000
    batch: int = 64  # pairs of each update
    pool: int = 50  # updates whose pairs are drawn together, so that the many pairs of one phrase do not follow each other
    learning_rate: float = 3e-3  # of Adam at the height
    warming: int = 100  # updates until it has risen to that
    cooling: float = 0.4  # last share of the updates, in which it falls to 0 along a cosine
    seed: int = 0

    def rate(self, update: int) -> float:
        """Learning rate of an update. Until it cools, training does not depend on how long it will be."""
        cooled = max(0.0, 1 - (1 - update / self.updates) / self.cooling)
        return self.learning_rate * min(1.0, (update + 1) / self.warming) * (1 + math.cos(math.pi * cooled)) / 2


def pool(schedule: Schedule, number: int, tokens: dict[str, int]) -> list[list[Pair]]:
    """The batches of some updates. A pool depends on no other, so that training can go on at any of them."""
    random = Random(f"{schedule.seed}/{number}")
    pairs: list[Pair] = []
    for phrase in phrases(random, held_out=False):
        for source, language, translation in phrase.pairs():
            pairs.append((encode(source, language, tokens), encode_translation(translation, tokens)))
        if len(pairs) >= schedule.pool * schedule.batch:
            break
    random.shuffle(pairs)
    return [pairs[at * schedule.batch : (at + 1) * schedule.batch] for at in range(schedule.pool)]


def loss_of(network: Translator, batch: list[Pair]) -> torch.Tensor:
    """Mean cross entropy of the translations' pieces, each behind the right ones."""
    sources, written = [source for source, _ in batch], [[source[-1], *translation[:-1]] for source, translation in batch]
    right = torch.tensor([token for _, translation in batch for token in translation])
    return nn.functional.cross_entropy(network(sources, written), right)


def train(schedule: Schedule, vocabulary: tuple[str, ...], path: Path, *, attends: bool, pools: int | None = None) -> Translator:
    """Goes on from the checkpoint at `path`, or from the start, to the schedule's end or for so many pools; writes it after each.

    Raises SystemExit for a checkpoint of another training.
    """
    torch.manual_seed(schedule.seed)
    network = Translator(len(vocabulary), attends=attends)
    optimizer = torch.optim.Adam(network.parameters(), betas=BETAS)
    recipe = {"schedule": repr(asdict(schedule)), "attends": str(attends), "pieces": str(len(vocabulary))}
    done, seconds = _go_on(path, network, optimizer, recipe)
    tokens = {piece: token for token, piece in enumerate(vocabulary)}
    last = schedule.updates // schedule.pool
    numbers = range(done, last if pools is None else min(last, done + pools))
    with Progress() as progress:
        task = progress.add_task("training", total=last, completed=done)
        for number in numbers:
            began = time.process_time()
            loss = _train_pool(network, optimizer, schedule, number, tokens)
            seconds += time.process_time() - began
            told = {"pools": str(number + 1), "seconds": f"{seconds:.1f}", "loss": f"{loss:.4f}"}
            checkpoint.write(path, {"network": network}, optimizer, recipe | told)
            progress.update(task, advance=1, description=f"training, loss {loss:.4f}")
    print(f"{path.name}: {numbers.stop} of {last} pools, {seconds:.0f} s of processor time")
    return network.eval()


def _go_on(path: Path, network: Translator, optimizer: torch.optim.Optimizer, recipe: checkpoint.Told) -> tuple[int, float]:
    """Puts both where a checkpoint left them, if there is one. Returns pools done, and seconds of processor time."""
    told = checkpoint.told_by(path)
    if not told:
        return 0, 0.0
    found = {name: told[name] for name in recipe}
    if found != recipe:
        raise SystemExit(f"{path}: expected a checkpoint of {recipe}, got one of {found}; --again begins anew")
    checkpoint.restore(path, {"network": network}, optimizer)
    return int(told["pools"]), float(told["seconds"])


def _train_pool(
    network: Translator, optimizer: torch.optim.Optimizer, schedule: Schedule, number: int, tokens: dict[str, int]
) -> float:
    """The updates of a pool; the mean loss."""
    losses = []
    for update, batch in enumerate(pool(schedule, number, tokens), number * schedule.pool):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(update)
        loss = loss_of(network, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def save_bundle(network: Translator, vocabulary: tuple[str, ...], schedule: Schedule, directory: Path) -> Bundle:
    """Writes the network with attention as a step function on text, which stops at its end token."""
    end, tags, hidden = vocabulary.index(END), range(1, 1 + len(LANGUAGES)), HIDDEN[True]  # tokens as `collect` orders them
    text = TextSpec("pieces", vocabulary, lower=True, space=SIGN)
    piece = Input(np.int64(0), limit=len(vocabulary), description="A piece of a word.", text=text)
    following = Output("next_token", description="Score of each piece as the next.", stop=((end,),), temperature=0.0)
    return save_program(
        directory,
        Step(network, tags, end),
        inputs={"token": piece},
        states={"h": (hidden,), "c": (hidden,), "memory": (SLOTS, hidden), "position": np.int64(0), "writes": np.bool_(False)},
        outputs={"next": following},
        name="translate",
        description=(
            "Numbers, dates and times between English, German, French and Spanish, and nothing else: a phrase, then the language "
            "that is wanted as <en>, <de>, <fr> or <es>. An encoder and a decoder, both LSTMs, with attention."
        ),
        licence="Apache-2.0, as the project: the phrases that the weights are made from are generated.",
        provenance=(
            f"examples/translation/train.py on phrases made by Babel 2.19.0 and num2words 0.5.14. {schedule.updates} updates of "
            f"{schedule.batch} translations, rate {schedule.learning_rate:g}, seed {schedule.seed}."
        ),
        extra={"remembered_pieces": SLOTS},
    )


def main() -> None:
    """Trains one of the two, and writes the bundle of the one with attention."""
    standard = Schedule()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixed", action="store_true", help="the rival: all that the decoder gets is the encoder's last state")
    parser.add_argument("--again", action="store_true", help="from the start, though there is a checkpoint")
    parser.add_argument("--updates", type=int, default=standard.updates, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=standard.seed, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="more may be faster and give other weights; default: %(default)s")
    parser.add_argument("--out", type=Path, default=BUNDLE, help="folder of the bundle (default: the shipped one)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    path = BUILD / ("fixed.safetensors" if options.fixed else "attention.safetensors")
    if options.again:
        path.unlink(missing_ok=True)
    schedule, vocabulary = Schedule(updates=options.updates, seed=options.seed), collect(*vocabulary_texts(), LANGUAGES)
    network = train(schedule, vocabulary, path, attends=not options.fixed)
    if not options.fixed:
        print(f"wrote {save_bundle(network, vocabulary, schedule, options.out).path}")


if __name__ == "__main__":
    main()
