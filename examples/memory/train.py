"""Trains the `memory` model, a word-level LSTM, and beside it a GRU and a tanh RNN of as many parameters on the same stories.

Each learns to predict every next word, and the language after "I speak fluent" counts as much as all other words together. Filler
is 0 to 100 words long, evenly; a second tanh RNN begins with short filler and is led to long. Held-out sentences are not used.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `memory.…`, from wherever it is started

from memory.grammar import SHORTEST, TOKENS, VOCABULARY, Storyteller
from memory.network import NAMES, Kind, Network

from stepstream_server.bundles import Bundle, Head, TextSpec, save

MODELS = Path(__file__).parents[2] / "models"
RIVALS = Path(__file__).parent / "rivals"
LONGEST = 100  # words of filler in training
LICENCE = "Apache-2.0, as the project: the sentences that the weights are made from are generated."
PROVENANCE = "examples/memory/train.py on sentences of examples/memory/grammar.py."


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train. All networks have the same but for the learning rate, the best of those that each was tried at."""

    learning_rate: float  # of Adam at the start; falls to 0 along a cosine
    iterations: int = 3000
    batch: int = 64  # rows per iteration; each is two stories, told one after the other
    growing: float = 0.0  # first share of the iterations, in which the longest filler grows from 0 to LONGEST words
    answer: float = 1.0  # weight of the answers' mean loss beside that of all words
    gradient_norm: float = 1.0  # gradients are scaled down to it
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Entrant:
    """One of the networks that are compared. README.md tells how the learning rates were chosen."""

    title: str
    kind: Kind
    schedule: Schedule
    path: Path  # where its bundle is shipped


ENTRANTS = {
    "memory": Entrant("LSTM", "lstm", Schedule(3e-3), MODELS / "memory"),
    "gru": Entrant("GRU", "gru", Schedule(1e-2), RIVALS / "gru"),
    "rnn": Entrant("tanh RNN", "rnn", Schedule(1e-3), RIVALS / "rnn"),
    "rnn-short-first": Entrant("tanh RNN, short first", "rnn", Schedule(1e-3, growing=0.5), RIVALS / "rnn-short-first"),
}


def batches(schedule: Schedule) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens [batch, steps] and where in each row the two blanks are [batch, 2], as the step that answers.

    A row begins at the zero state, as a session does. Its stories share `LONGEST` words of filler, fewer while it grows: the
    rows are equally long without padding, filler has every length evenly, and the second country has to replace the first.
    """
    draw = random.Random(schedule.seed)
    teller = Storyteller(schedule.seed, held_out=False)
    for iteration in range(schedule.iterations):
        grown = iteration / (schedule.growing * schedule.iterations) if schedule.growing else 1.0
        longest = round(LONGEST * min(1.0, grown))
        rows, blanks = [], []
        for _ in range(schedule.batch):
            filler = draw.randint(0, longest)
            told = [teller.story(SHORTEST + words) for words in (filler, longest - filler)]
            first, second = ([*story.tokens, TOKENS[story.answer], TOKENS["."]] for story in told)
            rows.append(first + second)
            blanks.append([len(first) - 3, len(first) + len(second) - 3])
        yield torch.tensor(rows), torch.tensor(blanks)


def train(kind: Kind, schedule: Schedule) -> tuple[Network, list[float]]:
    """A trained network, and its answers' mean loss in each iteration. The same schedule gives the same network."""
    torch.manual_seed(schedule.seed)
    network = Network(kind, len(VOCABULARY))
    optimizer = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, schedule.iterations)
    losses = []
    for rows, blanks in track(batches(schedule), total=schedule.iterations, description=f"training the {NAMES[kind]}"):
        scores = network(rows[:, :-1])
        each = nn.functional.cross_entropy(scores.transpose(1, 2), rows[:, 1:], reduction="none")
        answers = each.gather(1, blanks).mean()
        optimizer.zero_grad()
        (each.mean() + schedule.answer * answers).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), schedule.gradient_norm)
        optimizer.step()
        falling.step()
        losses.append(answers.item())
    return network.eval(), losses


def validate(network: Network, seed: int, count: int = 100) -> float:
    """Share of the blanks filled rightly, over all distances trained on, in new stories of the sentences trained on."""
    teller = Storyteller(seed, held_out=False)
    right = []
    for distance in range(SHORTEST, SHORTEST + LONGEST + 1, 4):
        stories = [teller.story(distance) for _ in range(count)]
        with torch.no_grad():
            said = network(torch.tensor([story.tokens for story in stories]))[:, -1].argmax(-1)
        right += [word == TOKENS[story.answer] for word, story in zip(said.tolist(), stories, strict=True)]
    return float(np.mean(right))


def save_bundle(network: Network, schedule: Schedule, directory: Path) -> Bundle:
    """Writes the network so that it takes words and answers with a score for each. The bundle is named as its folder."""
    growing = f", filler growing in the first {schedule.growing:.0%}" if schedule.growing else ""
    recipe = f"Rate {schedule.learning_rate:g}, {schedule.iterations} iterations{growing}, seed {schedule.seed}."
    return save(
        directory,
        network.cell,
        {"next": Head(network.next, kind="next_token", description="Score of each word as the next.")},
        version=1,
        front=network.embedding,
        input_name="word",
        input_description="A word or punctuation mark, as its place in the vocabulary.",
        description=f"A story's next word, by a word-level {NAMES[network.kind]}: remembers the country and names its language.",
        licence=LICENCE,
        provenance=f"{PROVENANCE} {recipe}",
        text=TextSpec("words", VOCABULARY),
        half=True,
        extra={"longest_filler_trained_on": LONGEST},
    )


def main() -> None:
    """Trains the networks asked for, each at its learning rate or at the best of several, and writes their bundles."""
    standard = ENTRANTS["memory"].schedule
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(ENTRANTS), nargs="+", default=list(ENTRANTS), help="networks (default: all)")
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates, of which the best in validation is kept")
    parser.add_argument("--out", type=Path, help="folder for all bundles (default: where they are shipped)")
    parser.add_argument("--iterations", type=int, default=standard.iterations, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=standard.seed, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="more may be faster and give other weights; default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.only:
        entrant, best = ENTRANTS[name], -1.0
        for rate in options.rates or [entrant.schedule.learning_rate]:
            schedule = replace(entrant.schedule, learning_rate=rate, iterations=options.iterations, seed=options.seed)
            network, losses = train(entrant.kind, schedule)
            recall = validate(network, options.seed + 1)
            print(
                f"{entrant.title}: {network.cell.hidden_size} units, {network.cell_parameters} parameters in the layer; "
                f"rate {rate:g}, the answers' last loss {np.mean(losses[-50:]):.3f}, recall {recall:.1%} in validation"
            )
            if recall > best:
                best = recall
                bundle = save_bundle(network, schedule, options.out / name if options.out else entrant.path)
                print(f"wrote {bundle.path}")


if __name__ == "__main__":
    main()
