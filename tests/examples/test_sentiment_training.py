"""The sentiment example's training script, for a few passes over a few sentences of our own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="training needs the torch extra")

from sentiment.running import running_scores  # noqa: E402
from sentiment.sentences import Sentence, vocabulary  # noqa: E402
from sentiment.train import Batch, Corpus, Schedule, Training, errors, learning_rate, recipe_of, save_bundle, train  # noqa: E402

from stepstream_server.bundles import Bundle, load  # noqa: E402

SHORT = Schedule(passes=3, batch=4, learning_rate=1e-2, warming=2, averaging=0.5, seed=7)
NEVER = "none.safetensors"  # a checkpoint that nobody wrote


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, by which it trains by default: several would wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def sentences() -> list[Sentence]:
    """Twelve sentences, each word of which comes twice or more."""
    rated = {"good": 2.0, "fine": 1.0, "bad": -2.0}
    texts = {f"the {thing} was {word} !": score for word, score in rated.items() for thing in ("food", "staff")}
    return [Sentence(text, score, "ours") for text, score in texts.items()] * 2


def weights(training: Training) -> list[NDArray[np.float32]]:
    """All numbers of what was trained."""
    return [tensor.numpy() for tensor in training.average.state_dict().values()]


class Killed(Exception):
    """Ends a training in the middle."""


def test_a_training_that_was_ended_goes_on_to_the_same_weights(
    sentences: list[Sentence], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed within its second pass, it begins that pass anew; in the end nothing tells that it was not trained in one go."""
    whole = train(sentences, sentences, SHORT, tmp_path / "whole")
    update, done = Training._update, 0

    def until_killed(training: Training, batch: Batch, number: int) -> float:
        nonlocal done
        done += 1
        if done == training.per_pass + 2:
            raise Killed
        return update(training, batch, number)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Training, "_update", until_killed)
        train(sentences, sentences, SHORT, tmp_path / "ended")
    goes_on = Training(Corpus(sentences, vocabulary(sentences)), SHORT)
    goes_on.read(tmp_path / "ended", recipe_of(SHORT, sentences))
    assert goes_on.passes == 1
    ended = train(sentences, sentences, SHORT, tmp_path / "ended")
    for one, other in zip(weights(whole), weights(ended), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(sentences: list[Sentence], tmp_path: Path) -> None:
    """Another seed or other sentences give what they give from the start."""
    path = tmp_path / "checkpoint"
    train(sentences, sentences, replace(SHORT, seed=8), path)
    again = train(sentences, sentences, SHORT, path)
    fresh = train(sentences, sentences, SHORT, tmp_path / NEVER)
    for one, other in zip(weights(again), weights(fresh), strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_learns_what_is_good_and_what_is_bad(sentences: list[Sentence], tmp_path: Path) -> None:
    """And the server computes from the bundle what the network does, rounded to halves."""
    schedule = replace(SHORT, passes=20, dropout=0.0, rare=0.0, learning_rate=3e-2)
    training, words = train(sentences, sentences, schedule, tmp_path / NEVER), vocabulary(sentences)
    bundle = save_bundle(training.average, words, schedule, tmp_path / "sentiment")
    texts = [sentence.text for sentence in sentences[:6]]
    served = running_scores(bundle, texts)
    np.testing.assert_allclose([scores[-1] for scores in served], [sentence.score for sentence in sentences[:6]], atol=0.5)
    with torch.no_grad():
        expected = training.average(Corpus(sentences[:6], words).batch(range(6)).tokens)
    np.testing.assert_allclose(served, expected, atol=1e-2)
    assert load(bundle.path).spec == bundle.spec
    assert _told(bundle)


def _told(bundle: Bundle) -> bool:
    return "vaderSentiment 3.3.2" in bundle.spec.licence and "seed 7" in bundle.spec.provenance


def test_errors_are_those_of_last_words_and_of_all_words() -> None:
    """Filling up a shorter sentence changes nothing."""
    batch = Batch(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 1]), torch.tensor([1.0, -1.0]))
    last, every = errors(torch.tensor([[0.0, 0.0, 3.0], [1.0, 9.0, 9.0]]), batch)
    assert last.item() == pytest.approx((4 + 4) / 2)
    assert every.item() == pytest.approx((1 + 1 + 4 + 4) / 4)


def test_a_pass_has_every_sentence_once(sentences: list[Sentence]) -> None:
    """Filled up to the longest of each batch."""
    corpus = Corpus(sentences[:7], vocabulary(sentences))
    batches = list(corpus.batches(4, random.Random(0)))
    found = [row[:length].tolist() for batch in batches for row, length in zip(batch.tokens, batch.lengths, strict=True)]
    assert {len(batch.tokens) for batch in batches} == {4, 3}
    assert sorted(found) == sorted(row.tolist() for row in corpus.rows)


def test_rare_words_are_read_as_unknown_the_rarer_the_likelier(sentences: list[Sentence]) -> None:
    """One that comes three times as often as `rare` says, one time in four."""
    training = Training(Corpus(sentences, vocabulary(sentences)), replace(SHORT, rare=4.0))
    often = training.corpus.counts.argmax()
    assert training.corpus.counts[often] == 12
    read = training._without_rare(often.repeat(10_000))
    assert set(read.tolist()) == {0, int(often)}
    assert (read == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    """Along a cosine."""
    rates = [learning_rate(SHORT, update, 100) for update in range(101)]
    assert rates[0] == pytest.approx(5e-3)
    assert max(rates) == rates[1]
    assert rates[50] == pytest.approx(5e-3)
    assert rates[100] == pytest.approx(0)
