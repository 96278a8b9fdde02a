"""Trains the `sentiment` model, a word LSTM, on sentences and words that people rated, fetched from VADER's source package.

The rating is asked for after the last word of a sentence and after each word before. Recipes were judged by held-out sentences of
that package; the reviews that the model is tested on had no part in it. A training that was ended goes on where its last whole
pass over the sentences ended.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `sentiment.…`, from wherever it is started

import checkpoint
from sentiment.fetch import missing
from sentiment.network import Network
from sentiment.sentences import UNKNOWN, Parts, Sentence, rated_sentences, rated_words, reviews, split, vocabulary

from stepstream_server.bundles import Bundle, Head, TextSpec, save

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "models" / "sentiment"
CHECKPOINT = ROOT / "build" / "sentiment" / "checkpoint.safetensors"
SLACK = 4  # words by which sentences of a batch may differ in length beyond what their neighbours do
LICENCE = (
    "Apache-2.0, as the project. The sentences and words that the weights are made from are in vaderSentiment 3.3.2 "
    "(MIT, C. J. Hutto) and no part of the project."
)
PROVENANCE = (
    "examples/sentiment/train.py on the rated film reviews, product reviews and tweets of Hutto and Gilbert, VADER: A "
    "Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text (ICWSM 2014), and the words of VADER's lexicon, "
    "all from the source package of vaderSentiment 3.3.2."
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train. README.md tells what else was tried."""

    passes: int = 6  # over all sentences
    batch: int = 64
    learning_rate: float = 4e-3  # of AdamW at its height; falls to 0 along a cosine
    warming: int = 200  # updates in which it rises
    decay: float = 0.05  # of the weights, per update times the learning rate
    dropout: float = 0.5  # of what the LSTM reads and writes
    rare: float = 1.0  # a word that comes n times is read as unknown with a chance of rare / (rare + n)
    running: float = 1.0  # weight of the mean loss over all words beside that of the last
    averaging: float = 0.998  # share of the averaged weights that an update leaves
    gradient_norm: float = 1.0  # gradients are scaled down to it
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Sentences of about the same length."""

    tokens: Tensor  # int64 [batch, steps], filled up behind the last word
    lengths: Tensor  # int64 [batch]
    scores: Tensor  # [batch]


class Corpus:
    """Rated sentences as tokens of a vocabulary."""

    def __init__(self, sentences: Sequence[Sentence], words: tuple[str, ...]) -> None:
        numbers = {word: number for number, word in enumerate(words)}
        self.rows = [torch.tensor([numbers.get(word, 0) for word in sentence.words]) for sentence in sentences]
        self.scores = torch.tensor([sentence.score for sentence in sentences])
        self.counts = torch.bincount(torch.cat(self.rows), minlength=len(words))  # of each word

    def batch(self, places: Sequence[int]) -> Batch:
        """The sentences at these places."""
        rows = [self.rows[place] for place in places]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return Batch(tokens, torch.tensor([len(row) for row in rows]), self.scores[list(places)])

    def batches(self, size: int, draw: random.Random) -> Iterator[Batch]:
        """Every sentence once, neighbours in length together, in an order that is drawn."""
        by_length = sorted(range(len(self.rows)), key=lambda place: len(self.rows[place]) + draw.uniform(0, SLACK))
        parts = [by_length[begin : begin + size] for begin in range(0, len(by_length), size)]
        draw.shuffle(parts)
        return (self.batch(part) for part in parts)


class Training:
    """A network on its way, and beside it the average of its weights, which is what will be used."""

    def __init__(self, corpus: Corpus, schedule: Schedule) -> None:
        torch.manual_seed(_seed(schedule, 0))
        self.corpus = corpus
        self.schedule = schedule
        self.network = Network(len(corpus.counts), schedule.dropout)
        self.average = copy.deepcopy(self.network).eval()
        self.optimizer = torch.optim.AdamW(self.network.parameters(), weight_decay=schedule.decay)
        self.per_pass = math.ceil(len(corpus.rows) / schedule.batch)
        self.passes = 0  # that are behind it

    def run_pass(self, advance: Callable[[], None]) -> float:
        """Goes over all sentences once more, `advance` after each batch; returns the mean loss of last words."""
        self.passes += 1
        torch.manual_seed(_seed(self.schedule, self.passes))
        self.network.train()
        losses = []
        for number, batch in enumerate(
            self.corpus.batches(self.schedule.batch, random.Random(_seed(self.schedule, self.passes)))
        ):
            losses.append(self._update(batch, (self.passes - 1) * self.per_pass + number))
            advance()
        return float(np.mean(losses))

    def _update(self, batch: Batch, update: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.schedule, update, self.schedule.passes * self.per_pass)
        last, running = errors(self.network(self._without_rare(batch.tokens)), batch)
        self.optimizer.zero_grad()
        (last + self.schedule.running * running).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.gradient_norm)
        self.optimizer.step()
        with torch.no_grad():
            for kept, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                kept.lerp_(new, 1 - self.schedule.averaging)
        return last.item()

    def _without_rare(self, tokens: Tensor) -> Tensor:
        """Some words become unknown, the rarer the likelier: so the network learns what to make of one that it does not know."""
        chance = self.schedule.rare / (self.schedule.rare + self.corpus.counts)
        return tokens.masked_fill(torch.rand(tokens.shape) < chance[tokens], 0)

    def write(self, path: Path, recipe: str) -> None:
        """Keeps where it stands."""
        checkpoint.write(path, self._modules, self.optimizer, {"recipe": recipe, "passes": str(self.passes)})

    def read(self, path: Path, recipe: str) -> None:
        """Goes on where a training of the same recipe stood, if one did."""
        told = checkpoint.told_by(path)
        if told.get("recipe") == recipe:
            checkpoint.restore(path, self._modules, self.optimizer)
            self.passes = int(told["passes"])

    @property
    def _modules(self) -> checkpoint.Modules:
        return {"network": self.network, "average": self.average}


def _seed(schedule: Schedule, number: int) -> int:
    """For the weights that it begins with (0) and for each pass, so that one that goes on draws what it would have drawn."""
    return 1000 * schedule.seed + number


def learning_rate(schedule: Schedule, update: int, total: int) -> float:
    """For one of `total` updates."""
    warmed = min(1.0, (update + 1) / schedule.warming)
    return schedule.learning_rate * warmed * 0.5 * (1 + math.cos(math.pi * update / total))


def errors(scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Mean squared errors of scores [batch, steps]: after the last words, and after every word."""
    steps, lengths = torch.arange(scores.shape[1]), batch.lengths[:, None]
    squares = (scores - batch.scores[:, None]) ** 2
    return squares[steps == lengths - 1].mean(), squares[steps < lengths].mean()


def final_scores(network: Network, corpus: Corpus) -> Tensor:
    """After the last word of each sentence: [n]."""
    batch = corpus.batch(range(len(corpus.rows)))
    with torch.no_grad():
        scores: Tensor = network(batch.tokens)
    return scores[torch.arange(len(batch.lengths)), batch.lengths - 1]


def train(sentences: Sequence[Sentence], validation: Sequence[Sentence], schedule: Schedule, path: Path) -> Training:
    """A whole training, or what is left of one that `path` keeps; the same sentences and schedule give the same network."""
    words = vocabulary(sentences)
    training = Training(Corpus(sentences, words), schedule)
    recipe = recipe_of(schedule, sentences)
    training.read(path, recipe)
    unseen = Corpus(validation, words)
    with Progress() as progress:
        task = progress.add_task("training", total=schedule.passes * training.per_pass)
        progress.update(task, completed=training.passes * training.per_pass)
        while training.passes < schedule.passes:
            loss = training.run_pass(lambda: progress.advance(task))
            training.write(path, recipe)
            correlation = np.corrcoef(final_scores(training.average, unseen), unseen.scores)[0, 1]
            progress.console.print(f"pass {training.passes}: loss {loss:.3f}, r {correlation:.3f} in validation")
    return training


def recipe_of(schedule: Schedule, sentences: Sequence[Sentence]) -> str:
    """Tells trainings apart."""
    return hashlib.sha256(repr((schedule, sentences)).encode()).hexdigest()


def parts() -> Parts:
    """The rated sentences, without those that are tested."""
    return split(rated_sentences(), reviews())


def save_bundle(network: Network, words: tuple[str, ...], schedule: Schedule, directory: Path) -> Bundle:
    """Writes the network so that it takes words and answers each with a score. The bundle is named as its folder."""
    return save(
        directory,
        network.cell,
        {"score": Head(network.score, description="What people would make of the text so far, from -4 (bad) to 4 (good).")},
        version=1,
        front=network.embedding,
        input_name="word",
        input_description="A word or punctuation mark, as its place in the vocabulary.",
        description="How a text sounds after each of its words, from bad to good, by a word-level LSTM.",
        licence=LICENCE,
        provenance=f"{PROVENANCE} {schedule.passes} passes, seed {schedule.seed}.",
        text=TextSpec("words", vocabulary=words, unknown=UNKNOWN, lower=True),
        half=True,
    )


def main() -> None:
    """Trains, or goes on, and writes the bundle."""
    standard = Schedule()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUNDLE, help="where the bundle goes (default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="what a training goes on from (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=standard.passes, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=standard.seed, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="more may be faster and give other weights; default: %(default)s")
    options = parser.parse_args()
    if why := missing():
        sys.exit(why)
    torch.set_num_threads(options.threads)
    schedule = replace(standard, passes=options.passes, seed=options.seed)
    sentences = parts()
    print(f"{len(sentences.trained)} sentences; left out: {sentences.tested} of the tests, {sentences.repeated} that came twice")
    training = train([*sentences.trained, *rated_words()], sentences.validation, schedule, options.checkpoint)
    bundle = save_bundle(training.average, vocabulary([*sentences.trained, *rated_words()]), schedule, options.out)
    print(f"wrote {bundle.path}; {time.process_time():.0f} s of processor time")


if __name__ == "__main__":
    main()
