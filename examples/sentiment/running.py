"""The score after every word of a text, computed from a bundle by the server's own arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sentiment.sentences import words_of

from stepstream_server.backends import build
from stepstream_server.bundles import Bundle
from stepstream_server.config import BackendSettings

Tokens = NDArray[np.int64]
Floats = NDArray[np.float32]


def tokens_of(bundle: Bundle, texts: Sequence[str]) -> list[Tokens]:
    """Tokens [T] of each text, by the bundle's vocabulary."""
    text = bundle.spec.inputs[0].text
    if text is None:
        raise ValueError(f"{bundle.path}: expected an input of text")
    numbers = {word: number for number, word in enumerate(text.vocabulary)}
    return [np.array([numbers.get(word, numbers[text.unknown]) for word in words_of(each)], np.int64) for each in texts]


def running_scores(bundle: Bundle, texts: Sequence[str]) -> list[Floats]:
    """For each text its scores [T], one after each word. Texts of one length are one launch, each in a session of its own."""
    read = tokens_of(bundle, texts)
    by_length: dict[int, list[int]] = {}
    for index, tokens in enumerate(read):
        by_length.setdefault(len(tokens), []).append(index)
    rows = max(map(len, by_length.values()))
    backend = build(bundle.spec, bundle.weights, BackendSettings(threads=1), slots=rows, max_batch=rows)
    slots = backend.allocate(rows)
    scores: dict[int, Floats] = {}
    for length, indexes in by_length.items():
        used = slots[: len(indexes)]
        backend.zero(used)
        steps = np.stack([read[index] for index in indexes])
        (output,) = backend.collect(backend.launch("step", used, (steps,), length)).outputs
        scores |= zip(indexes, output[..., 0], strict=True)
    return [scores[index] for index in range(len(texts))]
