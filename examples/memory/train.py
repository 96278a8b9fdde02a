"""Trains the `memory` model, a word-level LSTM, and beside it a GRU and a tanh RNN of as many parameters on the same stories.

Each learns to predict every next word, and the language after "I speak fluent" counts as much as all other words together. Filler
is 0 to 100 words long, evenly. Held-out sentences are not used.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `memory.…`, from wherever it is started

from memory.grammar import SHORTEST, TOKENS, VOCABULARY, Storyteller
from memory.network import HIDDEN, KINDS, NAMES, Kind, Network

from stepstream_server.bundles import Bundle, Head, save

HERE = Path(__file__).parent
BUNDLES: dict[Kind, Path] = {
    "lstm": HERE.parents[1] / "models" / "memory",  # the one that is shipped to be served
    "gru": HERE / "rivals" / "gru",
    "rnn": HERE / "rivals" / "rnn",
}
LONGEST = 100  # words of filler in training
RATES: dict[Kind, float] = {"lstm": 3e-3, "gru": 3e-3, "rnn": 1e-3}  # learning rates, as README.md tells how they were chosen
LICENCE = "Apache-2.0, as the project: the sentences that the weights are made from are generated."
PROVENANCE = "examples/memory/train.py on sentences of examples/memory/grammar.py."


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train. All networks have the same but for the learning rate, which each gets as suits it best."""

    learning_rate: float = 3e-3  # of Adam at the start; falls to 0 along a cosine
    iterations: int = 3000
    batch: int = 64  # rows per iteration; each is two stories, told one after the other
    longest: int = LONGEST  # words of filler, that a row's two stories share
    answer: float = 1.0  # weight of the answers' mean loss beside that of all words
    gradient_norm: float = 1.0  # gradients are scaled down to it
    seed: int = 0


def batches(schedule: Schedule) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens [batch, steps] and where in each row the two blanks are [batch, 2], as the step that answers.

    A row begins at the zero state, as a session does. Its stories share `longest` words of filler: all rows are equally long
    without padding, each story's filler has every length evenly, and the second one's country has to replace the first one's.
    """
    draw = random.Random(schedule.seed)
    teller = Storyteller(schedule.seed, held_out=False)
    for _ in range(schedule.iterations):
        rows, blanks = [], []
        for _ in range(schedule.batch):
            filler = draw.randint(0, schedule.longest)
            told = [teller.story(SHORTEST + words) for words in (filler, schedule.longest - filler)]
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


def validate(network: Network, schedule: Schedule, count: int = 100) -> float:
    """Share of the blanks filled rightly, over all distances trained on, in new stories of the sentences trained on."""
    teller = Storyteller(schedule.seed + 1, held_out=False)
    right = []
    for distance in range(SHORTEST, SHORTEST + schedule.longest + 1, 4):
        stories = [teller.story(distance) for _ in range(count)]
        with torch.no_grad():
            said = network(torch.tensor([story.tokens for story in stories]))[:, -1].argmax(-1)
        right += [word == TOKENS[story.answer] for word, story in zip(said.tolist(), stories, strict=True)]
    return float(np.mean(right))


def save_bundle(network: Network, schedule: Schedule, directory: Path) -> Bundle:
    """Writes the network so that it takes words and answers with a score for each."""
    name = "memory" if network.kind == "lstm" else f"memory-{network.kind}"
    return save(
        directory,
        network.cell,
        {"next": Head(network.next, kind="next_token", labels=VOCABULARY, description="Score of each word as the next.")},
        name=name,
        version=1,
        front=network.embedding,
        input_name="word",
        input_description="A word or punctuation mark, as its place in the labels of `next`.",
        description=f"A story's next word, by a word-level {NAMES[network.kind]}: remembers the country and names its language.",
        licence=LICENCE,
        provenance=f"{PROVENANCE} Rate {schedule.learning_rate:g}, {schedule.iterations} iterations, seed {schedule.seed}.",
        text="words",
        half=True,
        extra={"longest_filler_trained_on": schedule.longest},
    )


def main() -> None:
    """Trains the networks asked for, each at its learning rate or at the best of several, and writes their bundles."""
    standard = Schedule()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(KINDS), nargs="+", default=list(KINDS), help="networks (default: all three)")
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates, of which the best in validation is kept")
    parser.add_argument("--out", type=Path, help="folder for all bundles, by network (default: where they are shipped)")
    parser.add_argument("--longest", type=int, default=standard.longest, help="words of filler at most (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=standard.iterations, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=standard.seed, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="more may be faster and give other weights; default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for kind in options.only:
        best = -1.0
        for rate in options.rates or [RATES[kind]]:
            schedule = Schedule(rate, options.iterations, longest=options.longest, seed=options.seed)
            network, losses = train(kind, schedule)
            recall = validate(network, schedule)
            print(
                f"{NAMES[kind]}: {HIDDEN[kind]} units, {network.cell_parameters} parameters in the layer; rate {rate:g}, "
                f"the answers' last loss {np.mean(losses[-50:]):.3f}, recall {recall:.1%} in validation"
            )
            if recall > best:
                best = recall
                bundle = save_bundle(network, schedule, options.out / kind if options.out else BUNDLES[kind])
                print(f"wrote {bundle.path}")


if __name__ == "__main__":
    main()
