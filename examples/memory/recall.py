"""How often a bundle fills the blank rightly, by the server's own arithmetic, at each distance from the country to the blank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from memory.grammar import COUNTRIES, LANGUAGES, TOKENS, VOCABULARY, Storyteller
from numpy.typing import NDArray

from stepstream_server.backends import build
from stepstream_server.bundles import Bundle
from stepstream_server.config import BackendSettings

CHANCE = 1 / len(LANGUAGES)
STEPS = 32  # of a launch, so that outputs of all steps need not be held at once


def held_out_stories(distance: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens [count, steps] of held-out stories up to their blanks, and the right answers' tokens [count].

    All countries come equally often where `count` is a multiple of twenty. The same arguments give the same stories.
    """
    teller = Storyteller(distance, held_out=True)
    stories = [teller.story(distance, COUNTRIES[number % len(COUNTRIES)]) for number in range(count)]
    return np.array([story.tokens for story in stories]), np.array([TOKENS[story.answer] for story in stories])


def recall(bundle: Bundle, distances: Sequence[int], count: int) -> NDArray[np.float64]:
    """Share of `count` held-out stories, per distance [n], in which the right word has the highest score of the vocabulary."""
    text = bundle.spec.inputs[0].text
    if text is None or text.vocabulary != VOCABULARY:
        raise ValueError(f"{bundle.path}: expected the words of the grammar as the vocabulary, in its order")
    backend = build(bundle.spec, bundle.weights, BackendSettings(), slots=count, max_batch=count)
    slots = backend.allocate(count)
    shares = []
    for distance in distances:
        tokens, answers = held_out_stories(distance, count)
        backend.zero(slots)
        for begin in range(0, tokens.shape[1], STEPS):
            steps = np.ascontiguousarray(tokens[:, begin : begin + STEPS])
            (scores,) = backend.collect(backend.launch("step", slots, (steps,), steps.shape[1])).outputs
        shares.append(np.mean(scores[:, -1].argmax(axis=-1) == answers))
    return np.array(shares)
