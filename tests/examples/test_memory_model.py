"""The shipped memory bundle, measured on held-out stories through the backend that serves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from memory.grammar import SHORTEST, VOCABULARY
from memory.recall import held_out_stories, recall

from stepstream_server.bundles import Bundle, load
from stepstream_server.spec import EmbeddingFront, TextSpec, cell_model

BUNDLE = Path(__file__).parents[2] / "models" / "memory"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The bundle that is shipped."""
    return load(BUNDLE)


def test_the_bundle_is_what_the_contract_says(bundle: Bundle) -> None:
    """A word in per step, a score for each word out, and text is words."""
    spec = bundle.spec
    assert (spec.name, spec.version, cell_model(spec).cell.kind) == ("memory", 1, "lstm")
    assert [(tensor.name, tensor.dtype, tensor.shape, tensor.limit) for tensor in spec.inputs] == [
        ("word", "int64", (), len(VOCABULARY))
    ]
    assert [(head.name, head.kind, head.width) for head in spec.heads] == [("next", "next_token", len(VOCABULARY))]
    assert spec.inputs[0].text == TextSpec("words", VOCABULARY)
    assert isinstance(cell_model(spec).front, EmbeddingFront)
    assert spec.licence.startswith("Apache-2.0")
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) < 300_000


def test_the_country_is_remembered_over_a_hundred_words(bundle: Bundle) -> None:
    """At least 99 of 100 languages are right, near and as far as it was trained."""
    assert (recall(bundle, (SHORTEST, 30, 100), 1000) >= 0.99).all()


def test_every_country_is_measured_as_often() -> None:
    """Recall is not that of a few languages."""
    tokens, answers = held_out_stories(50, 200)
    assert tokens.shape == (200, 55)
    assert set(np.bincount(answers)) == {0, 10}
    assert np.array_equal(tokens, held_out_stories(50, 200)[0])


def test_a_bundle_of_another_vocabulary_is_refused() -> None:
    """Its scores would be read wrongly."""
    with pytest.raises(ValueError, match="expected the words of the grammar"):
        recall(load(BUNDLE.parent / "ecg"), (5,), 20)
