"""How well `digits` hears: errors, the words they hit, and how long after a word's end its label is out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from speech.decoding import Decoder, matches
from speech.features import RATE, SPAN, STEP, Floats, LogMel
from speech.joined import Utterance

from stepstream_server.backends import build
from stepstream_server.bundles import Bundle
from stepstream_server.config import BackendSettings


@dataclass(frozen=True, slots=True)
class Score:
    """Errors and delays of some utterances."""

    digits: int  # said
    error: float  # insertions, deletions and substitutions per digit said
    right: dict[int, float]  # word -> share of it that was heard rightly
    delays: NDArray[np.float64]  # seconds from the end of each rightly heard word to its label; empty where ends are unknown


def serve(bundle: Bundle, utterances: Sequence[Utterance]) -> list[Floats]:
    """Scores [steps, labels] of each utterance, by the server's own arithmetic, a session each."""
    fed = [LogMel().feed(each.samples) for each in utterances]
    backend = build(bundle.spec, bundle.weights, BackendSettings(), slots=1, max_batch=1)
    slot, found = backend.allocate(1), []
    for steps in fed:
        backend.zero(slot)
        (scores,) = backend.collect(backend.launch("step", slot, (steps[np.newaxis],), len(steps))).outputs
        found.append(scores[0])
    return found


def out_at(step: int) -> float:
    """Seconds into the stream at which the last sample of a step has come, and its label can be out."""
    return (step * STEP + SPAN) / RATE


def score(utterances: Sequence[Utterance], scores: Sequence[Floats]) -> Score:
    """Scores [steps, labels] of utterances, read by greedy decoding."""
    errors, said, right, delays = 0, Counter[int](), Counter[int](), []
    for utterance, each in zip(utterances, scores, strict=True):
        heard = Decoder().feed(each)
        wrong, matched = matches(utterance.words, [label - 1 for _, label in heard])
        errors += wrong
        said.update(utterance.words)
        right.update(utterance.words[place] for place, _ in matched)
        if utterance.ends:
            delays += [out_at(heard[other][0]) - utterance.ends[place] / RATE for place, other in matched]
    shares = {word: right[word] / count for word, count in sorted(said.items())}
    return Score(said.total(), errors / said.total(), shares, np.array(delays))
