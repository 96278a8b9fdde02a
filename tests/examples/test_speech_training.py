"""The training script of `digits`, for a handful of updates, on voices that are made up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the torch extra")

from speech import train as training  # noqa: E402
from speech.augment import augment  # noqa: E402
from speech.batches import SORTED, UNKNOWN, batches, utterance  # noqa: E402
from speech.corpus import LONGEST, Speaker, Spoken  # noqa: E402
from speech.features import BANDS, FRAMES, QUIET  # noqa: E402
from speech.train import Schedule, ctc_loss, placed_loss, save_bundle, train  # noqa: E402
from speech.voices import HELD_OUT, TRAINED, WORDS  # noqa: E402

from stepstream_server.bundles import Bundle  # noqa: E402

SHORT = Schedule(updates=2 * SORTED, growing=SORTED, batch=3, hidden=8, seed=7)


def _spoken(words: tuple[int, ...], draw: np.random.Generator) -> Spoken:
    return Spoken(words, draw.normal(-5, 3, (12 * len(words), BANDS)).astype(np.float16))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The normalisation need not be a good one; threads of torch that wait for each other would take most of the time."""
    monkeypatch.setattr("speech.batches.MEASURED", 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def speakers() -> list[Speaker]:
    """Two voices that say noise."""
    draw = np.random.default_rng(0)
    return [Speaker([_spoken((word,), draw) for word in range(len(WORDS))], [_spoken((1, 2, 2), draw)]) for _ in range(2)]


def test_no_voice_is_on_both_sides() -> None:
    """Nor is one twice on either."""
    assert not set(HELD_OUT) & set(TRAINED)
    assert len({*HELD_OUT, *TRAINED}) == len(HELD_OUT) + len(TRAINED)


def test_augmented_frames_are_finite_and_never_the_same_twice() -> None:
    """Utterances in which nobody speaks are among them."""
    draw = np.random.default_rng(3)
    silent = np.full((20, BANDS), QUIET, np.float32)
    first, again = augment(silent, draw), augment(silent, draw)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert (first >= QUIET - 1e-3).all()
    assert first.shape[1] == BANDS
    assert first.shape != again.shape or not np.array_equal(first, again)


def test_a_batch_is_decided_by_its_number(speakers: list[Speaker]) -> None:
    """So that a training can go on in the middle; rows are padded, and have as many labels as counted."""
    whole = list(batches(speakers, 3, range(2 * SORTED), growing=0, seed=1))
    assert len(whole) == 2 * SORTED
    for batch, again in zip(whole[SORTED:], batches(speakers, 3, range(SORTED, 2 * SORTED), growing=0, seed=1), strict=True):
        assert torch.equal(batch.steps, again.steps)
        assert torch.equal(batch.labels, again.labels)
    for batch in whole:
        assert batch.steps.shape == (3, max(batch.lengths), FRAMES * BANDS)
        assert len(batch.labels) == sum(batch.counts)
        assert max(batch.counts) <= LONGEST
        assert all(1 <= label <= len(WORDS) for label in batch.labels)


def test_utterances_grow(speakers: list[Speaker]) -> None:
    """From one word to the longest; the last ones are trained on as they are."""
    drawn = list(batches(speakers, 4, range(8 * SORTED), growing=7 * SORTED, seed=2))
    longest = [max(int(max(batch.counts)) for batch in drawn[begin : begin + SORTED]) for begin in range(0, 8 * SORTED, SORTED)]
    assert all(found <= 1 + number for number, found in enumerate(longest))
    assert longest[0] == 1
    assert max(longest) == LONGEST


def test_a_step_is_told_the_word_whose_last_third_it_is(speakers: list[Speaker]) -> None:
    """One run of its label for each single word, in the order in which they are said."""
    draw = np.random.default_rng(4)
    for _ in range(20):
        said = utterance(speakers, draw, longest=3)
        changes = np.flatnonzero(np.diff(said.track, prepend=0))
        assert len(said.track) == len(said.steps)
        assert [label for label in said.track[changes].tolist() if label] == said.labels


def _saved(model: training.Recogniser, path: Path) -> Bundle:
    return save_bundle(model, SHORT, path / "digits")


def test_a_training_that_was_interrupted_ends_with_the_same_bundle(
    speakers: list[Speaker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the byte; and another seed does not go on from its checkpoint."""
    monkeypatch.setattr(training, "EVERY", SORTED)
    whole = _saved(train(speakers, SHORT, tmp_path / "whole.safetensors")[0], tmp_path / "whole")
    checkpoint = tmp_path / "parts.safetensors"
    losses = [train(speakers, SHORT, checkpoint, until)[1] for until in (SORTED, None)]
    assert [len(part) for part in losses] == [SORTED, SORTED]
    parts = _saved(train(speakers, SHORT, checkpoint)[0], tmp_path / "parts")  # all is done, nothing is trained
    for file in ("model.json", "model.safetensors"):
        assert (whole.path / file).read_bytes() == (parts.path / file).read_bytes()
    other = replace(SHORT, updates=SORTED, seed=8)
    assert len(train(speakers, other, checkpoint)[1]) == SORTED


def test_the_loss_falls(speakers: list[Speaker], tmp_path: Path) -> None:
    """A few updates in which each step is told its word learn that most of the time nothing is said."""
    schedule = replace(SHORT, updates=48, growing=48, learning_rate=1e-2, warming=1)
    losses = train(speakers, schedule, tmp_path / "checkpoint")[1]
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:8])


def test_the_loss_is_per_word(speakers: list[Speaker]) -> None:
    """Twice the same batch costs as much per word."""
    [batch, *_] = batches(speakers, 3, range(1), growing=0, seed=1)
    model = training.Recogniser(8, np.zeros(FRAMES * BANDS), np.ones(FRAMES * BANDS))
    twice = replace(
        batch,
        steps=batch.steps.repeat(2, 1, 1),
        lengths=batch.lengths.repeat(2),
        labels=batch.labels.repeat(2),
        counts=batch.counts.repeat(2),
    )
    assert ctc_loss(model, twice).item() == pytest.approx(ctc_loss(model, batch).item(), rel=1e-5)


def test_the_placed_loss_counts_known_steps_alone(speakers: list[Speaker]) -> None:
    """Padding, and strings, change nothing."""
    [batch, *_] = batches(speakers, 3, range(1), growing=SORTED, seed=1)
    model = training.Recogniser(8, np.zeros(FRAMES * BANDS), np.ones(FRAMES * BANDS))
    longer = replace(
        batch,
        steps=torch.nn.functional.pad(batch.steps, (0, 0, 0, 9)),
        track=torch.nn.functional.pad(batch.track, (0, 9), value=UNKNOWN),
    )
    assert placed_loss(model, longer).item() == pytest.approx(placed_loss(model, batch).item(), rel=1e-5)
