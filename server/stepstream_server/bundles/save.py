"""Turns a trained torch module into a bundle. Imports torch, and only when it is called."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from stepstream_server.bundles import declare
from stepstream_server.bundles.check import Weights
from stepstream_server.bundles.declare import Told
from stepstream_server.bundles.features import Scaler, plain_features, scaler_features
from stepstream_server.bundles.fields import wrong
from stepstream_server.bundles.fold import fold
from stepstream_server.bundles.load import Bundle
from stepstream_server.bundles.plain import check_plain, values
from stepstream_server.bundles.write import write
from stepstream_server.spec import CellKind, CellSpec, EmbeddingFront, FeaturesFront, HeadKind, HeadSpec, TextSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A trained head and what its numbers are; fields as in `spec.HeadSpec`."""

    linear: torch.nn.Linear  # hidden -> width
    kind: HeadKind = "regression"
    scale: float = 1.0
    offset: float = 0.0
    residual_of: str = ""
    levels: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    predicts: str = ""
    description: str = ""
    stop: tuple[tuple[int, ...], ...] = ()
    temperature: float | None = None


def save(
    directory: Path | str,
    module: torch.nn.LSTM | torch.nn.GRU | torch.nn.RNN,
    head: torch.nn.Linear | Mapping[str, torch.nn.Linear | Head],
    *,
    name: str = "",
    version: int = 1,
    front: FeaturesFront | Scaler | torch.nn.Linear | torch.nn.Embedding | None = None,
    text: TextSpec | None = None,
    input_name: str = "input",
    input_description: str = "",
    half: bool = False,
    **told: Unpack[Told],
) -> Bundle:
    """Writes a trained recurrent module with its head as a bundle that `stepstream-server serve` serves.

        lstm, linear = torch.nn.LSTM(3, 64), torch.nn.Linear(64, 1)
        ...  # train them
        save("models/tide", lstm, linear)

    module: any depth; `batch_first` and `dropout` do not matter, `bias=False` is stored as zeros, `proj_size` is folded into the
    weights that read the projected h, so that the session's h is the one before it.
    head: reads the top layer's h. A Linear alone is a regression named `output`; otherwise one head per output, by name and in
    order: a Linear, or a `Head` that says its kind, levels, labels and scale.
    front: what stands before the module: a normaliser, whose numbers may be arrays or tensors; a fitted scaler, see `Scaler`; a
    Linear, which is folded into the module's first weights; or an Embedding whose tokens are the input.
    text: how text becomes the tokens of an Embedding, and back.
    name: the folder's name if empty.

    half: store weights as float16, half the size, rounded to 11 bits; float32 otherwise. What is told besides, such as
    `licence`, is as in `spec.ModelSpec`.

    Returns what `load` would. Raises BundleError for a module that applies more than its weights or that a bundle cannot hold,
    for an unknown keyword, and for any field that `load` would refuse; then nothing is written.
    """
    declare.check_told(save, told)
    kind, heads = _cell_kind(module), _heads(head)
    before, weights = _front(front)
    weights = fold(weights | _cell_weights(module) | _head_weights(heads), module.num_layers)
    spec = declare.declare(
        name or Path(directory).resolve().name,
        CellSpec(kind, weights["cell.weight_ih_l0"].shape[-1], module.hidden_size, module.num_layers),
        [_head_spec(key, each) for key, each in heads.items()],
        front=before,
        input_name=input_name,
        input_description=input_description,
        text=text,
        version=version,
        **told,
    )
    return write(Path(directory), spec, weights, half=half)


def _cell_kind(module: torch.nn.RNNBase) -> CellKind:
    import torch

    kinds: dict[type[torch.nn.Module], CellKind] = {torch.nn.LSTM: "lstm", torch.nn.GRU: "gru", torch.nn.RNN: "rnn"}
    expected = "a torch.nn.LSTM, GRU or RNN itself, since another class may compute something else; save_program takes any module"
    check_plain(module, kinds, "module", expected)
    if module.bidirectional:
        raise wrong("save", "module.bidirectional", "False, since a stream has no future to read", "True")
    nonlinearity = getattr(module, "nonlinearity", "tanh")
    if nonlinearity != "tanh":
        raise wrong("save", "module.nonlinearity", "tanh; save_program takes any other, within a module", nonlinearity)
    return kinds[type(module)]


def _front(given: Any) -> tuple[declare.Front, Weights]:
    """What stands before the module, as the manifest has it, and its weights: those of a Linear are to be folded."""
    import torch

    if given is None:
        return None, {}
    if isinstance(given, FeaturesFront):
        return plain_features(given), {}
    if hasattr(given, "scale_") and not isinstance(given, torch.nn.Module):
        return scaler_features(given), {}
    known = "a FeaturesFront, a fitted scaler (mean_ and scale_), a torch.nn.Linear itself or a torch.nn.Embedding itself"
    check_plain(given, (torch.nn.Linear, torch.nn.Embedding), "front", f"{known}; save_program takes any layers")
    if isinstance(given, torch.nn.Linear):
        return None, _linear_weights(given, "front")
    if given.max_norm is not None:
        expected = "None, since it changes rows as they are read; save_program takes it"
        raise wrong("save", "front.max_norm", expected, str(given.max_norm))
    embedding = EmbeddingFront(given.num_embeddings, given.embedding_dim)
    return embedding, {"embedding.weight": values(given.weight, "front.weight")}


def _heads(head: torch.nn.Linear | Mapping[str, torch.nn.Linear | Head]) -> dict[str, Head]:
    import torch

    given = head if isinstance(head, Mapping) else {"output": head}
    heads = {name: each if isinstance(each, Head) else Head(each) for name, each in given.items()}
    expected = "a torch.nn.Linear, or a Head with one; no subclass and no other layers, which save_program takes"
    for name, each in heads.items():
        check_plain(each.linear, (torch.nn.Linear,), f"head {name}", expected)
    return heads


def _head_spec(name: str, head: Head) -> HeadSpec:
    told = {field.name: getattr(head, field.name) for field in dataclasses.fields(head) if field.name != "linear"}
    return HeadSpec(name=name, width=head.linear.out_features, **told)


def _cell_weights(module: torch.nn.RNNBase) -> Weights:
    parts = ["weight_ih", "weight_hh"]
    parts += ["bias_ih", "bias_hh"] if module.bias else []
    parts += ["weight_hr"] if module.proj_size else []
    names = [f"{part}_l{layer}" for layer in range(module.num_layers) for part in parts]
    weights = {f"cell.{name}": values(getattr(module, name), f"module.{name}") for name in names}
    for layer in range(module.num_layers):
        rows = len(weights[f"cell.weight_ih_l{layer}"])
        for bias in ("bias_ih", "bias_hh"):
            weights.setdefault(f"cell.{bias}_l{layer}", np.zeros(rows, np.float32))
    return weights


def _head_weights(heads: Mapping[str, Head]) -> Weights:
    weights: Weights = {}
    for name, head in heads.items():
        weights |= _linear_weights(head.linear, f"head.{name}")
    return weights


def _linear_weights(linear: torch.nn.Linear, name: str) -> Weights:
    weight = values(linear.weight, f"{name}.weight")
    bias = np.zeros(len(weight), np.float32) if linear.bias is None else values(linear.bias, f"{name}.bias")
    return {f"{name}.weight": weight, f"{name}.bias": bias}
