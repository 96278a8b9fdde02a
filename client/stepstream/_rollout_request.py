"""What a rollout is asked, checked and put into the contract's request. Pure: no connection, no session."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from stepstream._arguments import MAX_COUNT, at_least_one, step_count
from stepstream._errors import InvalidArgument, InvalidInput
from stepstream._models import ModelInfo
from stepstream._tensors import Values, pack
from stepstream_proto.v1 import inference_pb2 as pb

Commit = Literal["end", "each", "none"]
Stop = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
"""One sequence that ends a rollout, or several: of text for models of text, else of tokens."""

MAX_STOPS = 16
MAX_STOP_TOKENS = 64
MAX_TOP_K = 2**32 - 1

_COMMITS: dict[str, pb.Commit] = {"end": pb.COMMIT_END, "each": pb.COMMIT_EACH, "none": pb.COMMIT_NONE}


def rollout_request(
    *,
    max_steps: int,
    temperature: float,
    top_k: int = 0,
    top_p: float = 0.0,
    greedy: bool = False,
    seed: int | None,
    commit: Commit,
) -> pb.GenerateRequest:
    """A request with everything that does not depend on the model. Raises InvalidArgument naming field, expected and actual."""
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InvalidArgument(f"temperature: expected 0 or a positive number, got {temperature!r}")
    if not 0 <= top_k <= MAX_TOP_K:
        raise InvalidArgument(f"top_k: expected at least 0 and at most {MAX_TOP_K}, got {top_k!r}")
    if not 0 <= top_p <= 1:
        raise InvalidArgument(f"top_p: expected at least 0 and at most 1, got {top_p!r}")
    if commit not in _COMMITS:
        raise InvalidArgument(f"commit: expected 'end', 'each' or 'none', got {commit!r}")
    return pb.GenerateRequest(
        max_steps=at_least_one("max_steps", max_steps),
        temperature=0.0 if greedy else temperature,
        top_k=top_k,
        top_p=top_p,
        seed=secrets.randbelow(MAX_COUNT + 1) if seed is None else step_count("seed", seed),
        commit=_COMMITS[commit],
    )


def forecast_request(
    horizon: int, *, paths: int, levels: Sequence[float], temperature: float, seed: int | None
) -> pb.GenerateRequest:
    """The same for quantiles over paths, of which one has none."""
    at_least_one("horizon", horizon)
    request = rollout_request(max_steps=horizon, temperature=temperature, seed=seed, commit="none")
    request.paths = at_least_one("paths", paths)
    if paths > 1:
        if temperature == 0:
            raise InvalidArgument(f"temperature: expected a positive number, since {paths} paths would be the same, got 0")
        within = all(0 < level < 1 for level in levels)
        if not len(levels) or not within or any(low >= high for low, high in pairwise(levels)):
            raise InvalidArgument(f"levels: expected numbers between 0 and 1, ascending, got {list(levels)!r}")
        request.levels.extend(levels)
    return request


def address(request: pb.GenerateRequest, model: ModelInfo, prompt: Values | None, stop: Stop = ()) -> None:
    """Adds what depends on the model. Raises InvalidArgument or InvalidInput naming field, expected and actual."""
    request.model, request.version = model.name, model.version
    if not model.rollout_output or len(model.inputs) != 1:
        raise InvalidArgument(f"model: expected one with an output that predicts its input, got {model.name!r}, which has none")
    if request.paths and is_of_tokens(model):
        raise InvalidArgument(f"model: expected one of numbers to forecast with, got {model.name!r}, which is of tokens")
    if prompt is not None:
        request.prompt.extend(_prompt(model, prompt))
    _stop(request, model, stop)


def is_of_tokens(model: ModelInfo) -> bool:
    """Whether what a rollout draws are tokens rather than numbers."""
    return model.inputs[0].dtype.kind == "i"


def _prompt(model: ModelInfo, prompt: Values) -> Sequence[bytes]:
    codec = model._codec
    if codec is None:
        return pack(model, prompt, (None,))[1]
    if not isinstance(prompt, str):
        raise InvalidInput(f"prompt: expected text, since {model.name!r} is a model of text, got {type(prompt).__name__}")
    tokens = codec.tokens(prompt)
    return pack(model, tokens, (None,))[1] if len(tokens) else ()


def _stop(request: pb.GenerateRequest, model: ModelInfo, stop: Stop) -> None:
    sequences = _sequences(stop)
    if not is_of_tokens(model):
        if sequences or request.top_k or request.top_p:
            field = "stop" if sequences else "top_k" if request.top_k else "top_p"
            raise InvalidArgument(f"{field}: expected none, since {model.name!r} is a model of numbers, got one")
        return
    if len(sequences) > MAX_STOPS:
        raise InvalidArgument(f"stop: expected at most {MAX_STOPS} sequences, got {len(sequences)}")
    codec = model._codec
    for sequence in sequences:
        if isinstance(sequence, str) is (codec is None):
            expected = "tokens" if codec is None else "text"
            raise InvalidArgument(f"stop: expected sequences of {expected}, got {sequence!r}")
        tokens = np.asarray(sequence) if codec is None else codec.tokens(str(sequence))
        if not 0 < len(tokens) <= MAX_STOP_TOKENS:
            raise InvalidArgument(f"stop: expected 1 to {MAX_STOP_TOKENS} tokens, got {len(tokens)} in {sequence!r}")
        request.stop.append(pack(model, tokens, (None,))[1][0])


def _sequences(stop: Any) -> Sequence[str | ArrayLike]:
    """The sequences of `stop`, which may be a single one."""
    single = isinstance(stop, str) or (len(stop) and isinstance(stop[0], (int, np.integer)))
    return [stop] if single else list(stop)
