"""The translation example's networks, over whole texts and step by step, and its training script for a few updates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the torch extra")

from torch import Tensor  # noqa: E402
from translation.evaluate import BUNDLE, vocabulary_of  # noqa: E402
from translation.network import SILENT, SLOTS, Step, Translator  # noqa: E402

from stepstream_server.bundles import load  # noqa: E402

PIECES, END, TAGS = 40, 0, range(1, 5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, as in the training script: more of them wait for each other where other tests run beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def translator() -> Translator:
    """With random weights, large enough to tell one piece from another."""
    torch.manual_seed(3)
    translator = Translator(PIECES, attends=True).eval()
    with torch.no_grad():
        for weight in translator.parameters():
            weight.mul_(2)
    return translator


def steps(translator: Translator, tokens: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits behind each token [steps, pieces], and the states in the end, of one session."""
    step, hidden = Step(translator, TAGS, END), translator.encoder.hidden_size
    states = [torch.zeros(1, hidden), torch.zeros(1, hidden), torch.zeros(1, SLOTS, hidden)]
    states += [torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)]
    found = []
    with torch.no_grad():
        for token in tokens:
            logits, *states = step(torch.tensor([token]), *states)
            found.append(logits[0])
    return torch.stack(found), states


def test_both_networks_have_about_as_many_parameters() -> None:
    """Within three hundredths."""
    sizes = [sum(each.numel() for each in Translator(PIECES, attends=attends).parameters()) for attends in (True, False)]
    assert max(sizes) < 1.03 * min(sizes)


def test_steps_compute_what_whole_texts_do(translator: Translator) -> None:
    """Logits behind the tag and behind each piece that is written, of texts of several lengths in one batch."""
    random = np.random.default_rng(0)
    sources = [[*random.integers(5, PIECES, length).tolist(), tag] for length, tag in ((1, 1), (9, 2), (4, 3), (SLOTS - 1, 4))]
    answers = [random.integers(5, PIECES, length).tolist() for length in (3, 0, 11, 5)]
    pairs = list(zip(sources, answers, strict=True))
    with torch.no_grad():
        whole = translator(sources, [[source[-1], *answer] for source, answer in pairs])
    stepped = [steps(translator, source + answer)[0][len(source) - 1 :] for source, answer in pairs]
    torch.testing.assert_close(torch.cat(stepped), whole, atol=1e-5, rtol=1e-5)
    assert whole.std() > 0.1


def test_translation_goes_on_with_the_likeliest_piece(translator: Translator) -> None:
    """Whole texts give what steps do, each on what the one before said."""
    source = [7, 8, 9, 2]
    (text,) = translator.translate([source], END, longest=6)
    tokens = list(source)
    while len(tokens) < len(source) + 6 and tokens[-1] != END:
        tokens.append(int(steps(translator, tokens)[0][-1].argmax()))
    assert text == [token for token in tokens[len(source) :] if token != END]


def test_the_end_begins_anew(translator: Translator) -> None:
    """Behind it a session translates as a new one does."""
    source = [11, 12, 3]
    _, states = steps(translator, [7, 8, 2, 20, 21, END])
    assert not any(state.any() for state in states)
    again, _ = steps(translator, [7, 8, 2, 20, 21, END, *source])
    assert torch.equal(again[6:], steps(translator, source)[0])


def test_nothing_but_the_end_is_said_before_the_tag(translator: Translator) -> None:
    """So that a source without a tag is translated as nothing."""
    logits, _ = steps(translator, [7, 8, 9])
    assert (logits.argmax(1) == END).all()
    assert not logits[:, END].any()
    assert (steps(translator, [7, 8, 2])[0][-1] > SILENT).all()


def test_a_source_longer_than_the_memory_is_read_all_the_same(translator: Translator) -> None:
    """Pieces behind the last slot are not remembered, but step the encoder; nothing overflows."""
    source = [5 + at % 30 for at in range(2 * SLOTS)]
    logits, (_, _, memory, position, writes) = steps(translator, [*source, 2])
    other, (_, _, other_memory, _, _) = steps(translator, [*source[:-1], 39, 2])
    assert torch.isfinite(logits).all()
    assert position.item() == SLOTS
    assert writes.item()
    assert torch.equal(memory, other_memory)
    assert not torch.equal(logits[-1], other[-1])


def test_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """Broken off after a pool and taken up again as in one go; the bundle is named, takes text and stops at the end."""
    pytest.importorskip("babel", reason="phrases need the examples extra")
    from translation.train import Schedule, train

    short, vocabulary = Schedule(updates=4, batch=6, pool=2), tuple(vocabulary_of(load(BUNDLE)))
    train(short, vocabulary, tmp_path / "broken", attends=True, pools=1)
    broken = train(short, vocabulary, tmp_path / "broken", attends=True)
    whole = train(short, vocabulary, tmp_path / "whole", attends=True)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, broken.state_dict()[name]), name
    with pytest.raises(SystemExit, match="expected a checkpoint of"):
        train(replace(short, seed=1), vocabulary, tmp_path / "whole", attends=True)
