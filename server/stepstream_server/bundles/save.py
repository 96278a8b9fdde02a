"""Turns a trained torch module into a bundle. The only file here that imports torch, and only when it is called."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import NDArray

from stepstream_server.bundles import declare
from stepstream_server.bundles.check import Weights
from stepstream_server.bundles.declare import Told
from stepstream_server.bundles.load import Bundle
from stepstream_server.bundles.manifest import wrong
from stepstream_server.bundles.write import write
from stepstream_server.spec import CellKind, CellSpec, EmbeddingFront, FeaturesFront, HeadKind, HeadSpec

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


def save(
    directory: Path | str,
    module: torch.nn.LSTM | torch.nn.GRU | torch.nn.RNN,
    head: torch.nn.Linear | Mapping[str, torch.nn.Linear | Head],
    *,
    name: str = "",
    version: int = 1,
    front: FeaturesFront | torch.nn.Embedding | None = None,
    input_name: str = "input",
    input_description: str = "",
    half: bool = False,
    **told: Unpack[Told],
) -> Bundle:
    """Writes a trained recurrent module with its head as a bundle that `stepstream-server serve` serves.

        lstm, linear = torch.nn.LSTM(3, 64), torch.nn.Linear(64, 1)
        ...  # train them
        save("models/tide", lstm, linear)

    module: any depth; `batch_first` and `dropout` do not matter, `bias=False` is stored as zeros.
    head: reads the top layer's h. A Linear alone is a regression named `output`; otherwise one head per output, by name and in
    order: a Linear, or a `Head` that says its kind, levels, labels and scale.
    front: what stands before the module: a normaliser, or an Embedding whose tokens are the input.
    name: the folder's name if empty.

    half: store weights as float16, half the size, rounded to 11 bits; float32 otherwise. What is told besides, such as `text`,
    is as in `spec.ModelSpec`.

    Returns what `load` would. Raises BundleError for a module that a bundle cannot hold, and for
    any field that `load` would refuse; then nothing is written.
    """
    import torch

    cell = _cell_spec(module)
    heads = _heads(head)
    spec = declare.declare(
        name or Path(directory).resolve().name,
        cell,
        [_head_spec(key, each) for key, each in heads.items()],
        front=_front_spec(front),
        input_name=input_name,
        input_description=input_description,
        version=version,
        **told,
    )
    weights = _cell_weights(module) | _head_weights(heads)
    if isinstance(front, torch.nn.Embedding):
        weights["embedding.weight"] = _array(front.weight)
    return write(Path(directory), spec, weights, half=half)


def _cell_spec(module: torch.nn.RNNBase) -> CellSpec:
    import torch

    kinds: dict[type[torch.nn.Module], CellKind] = {torch.nn.LSTM: "lstm", torch.nn.GRU: "gru", torch.nn.RNN: "rnn"}
    if type(module) not in kinds:  # a subclass may compute something else
        raise wrong("save", "module", "a torch.nn.LSTM, GRU or RNN", type(module).__name__)
    if module.bidirectional:
        raise wrong("save", "module.bidirectional", "False, since a stream has no future to read", "True")
    if module.proj_size:
        raise wrong("save", "module.proj_size", "0", str(module.proj_size))
    nonlinearity = getattr(module, "nonlinearity", "tanh")
    if nonlinearity != "tanh":
        raise wrong("save", "module.nonlinearity", "tanh", nonlinearity)
    return CellSpec(kinds[type(module)], module.input_size, module.hidden_size, module.num_layers)


def _front_spec(front: FeaturesFront | torch.nn.Embedding | None) -> FeaturesFront | EmbeddingFront | None:
    if front is None or isinstance(front, FeaturesFront):
        return front
    if front.max_norm is not None:
        raise wrong("save", "front.max_norm", "None, since it changes rows as they are read", str(front.max_norm))
    return EmbeddingFront(front.num_embeddings, front.embedding_dim)


def _heads(head: torch.nn.Linear | Mapping[str, torch.nn.Linear | Head]) -> dict[str, Head]:
    import torch

    given = head if isinstance(head, Mapping) else {"output": head}
    heads = {name: each if isinstance(each, Head) else Head(each) for name, each in given.items()}
    for name, each in heads.items():
        if not isinstance(each.linear, torch.nn.Linear):
            raise wrong("save", f"head {name}", "a torch.nn.Linear, or a Head with one", type(each.linear).__name__)
    return heads


def _head_spec(name: str, head: Head) -> HeadSpec:
    told = {field.name: getattr(head, field.name) for field in dataclasses.fields(head) if field.name != "linear"}
    return HeadSpec(name=name, width=head.linear.out_features, **told)


def _cell_weights(module: torch.nn.RNNBase) -> Weights:
    weights = {f"cell.{name}": _array(parameter) for name, parameter in module.named_parameters()}
    for layer in range(module.num_layers):
        rows = len(weights[f"cell.weight_ih_l{layer}"])
        for bias in ("bias_ih", "bias_hh"):
            weights.setdefault(f"cell.{bias}_l{layer}", np.zeros(rows, np.float32))
    return weights


def _head_weights(heads: Mapping[str, Head]) -> Weights:
    weights: Weights = {}
    for name, head in heads.items():
        weights |= {f"head.{name}.{key}": _array(parameter) for key, parameter in head.linear.named_parameters()}
        weights.setdefault(f"head.{name}.bias", np.zeros(head.linear.out_features, np.float32))
    return weights


def _array(parameter: torch.Tensor) -> NDArray[np.float32]:
    import torch

    return parameter.detach().to("cpu", torch.float32).numpy().copy()
