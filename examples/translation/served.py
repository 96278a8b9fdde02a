"""Translations of texts by a bundle, by the server's own arithmetic, in a session of its own for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from translation.pieces import until

from stepstream_server.backends import build
from stepstream_server.bundles import Bundle
from stepstream_server.config import BackendSettings

Ints = NDArray[np.int64]
TOGETHER = 128  # sessions at once; no output depends on it
TRIAL_SECONDS = 30.0  # of processor time: all that is needed to try so many
LONGEST = 24  # pieces of a translation; the longest trained on has 14


def translate(bundle: Bundle, sources: Sequence[list[int]], end: int) -> list[list[int]]:
    """The likeliest piece again and again, up to the end, which is left out. sources: tokens up to the tag."""
    settings = BackendSettings(threads=1, trial_seconds=TRIAL_SECONDS)
    backend = build(bundle.spec, {}, settings, slots=TOGETHER, max_batch=TOGETHER, graph=bundle.graph)
    slots = backend.allocate(backend.max_batch)

    def step(rows: Ints, tokens: Ints) -> Ints:
        """The likeliest piece behind these of some rows."""
        (logits,) = backend.collect(backend.launch("step", slots[rows], (tokens,), tokens.shape[1])).outputs
        likeliest: Ints = logits[:, -1].argmax(axis=1)
        return likeliest

    texts: list[list[int]] = []
    for begin in range(0, len(sources), len(slots)):
        backend.zero(slots)
        texts += _written(step, sources[begin : begin + len(slots)], end)
    return texts


def _written(step: Callable[[Ints, Ints], Ints], sources: Sequence[list[int]], end: int) -> list[list[int]]:
    """Translations that as many new sessions write, which step sources of one length together."""
    lengths, token = np.array([len(source) for source in sources]), np.full(len(sources), end)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        token[rows] = step(rows, np.array([sources[row] for row in rows.tolist()]))
    written = [token]
    while (token != end).any() and len(written) < LONGEST:
        token = step(np.arange(len(sources)), token[:, None])
        written.append(token)
    return [until(text, end) for text in np.stack(written, axis=1).tolist()]
