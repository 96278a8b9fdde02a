"""One step of a model in torch, written out as equations. The reference for every other backend; knows no slots or batches.

LSTM: Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000. GRU: Cho et al. 2014, in the variant that
multiplies r after the recurrent product. RNN: Elman 1990. Gates in torch's order: i, f, g, o; r, z, n.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from stepstream_server.spec import CellKind, EmbeddingFront, FeaturesFront, HeadSpec, ModelSpec, cell_model

States = dict[str, Tensor]  # by name, [M, *shape]
Weights = Mapping[str, Tensor]


def prepare(name: str, weight: Tensor) -> Tensor:
    """A weight as `step` wants it: columns of products filled up with zeros to a multiple of 16, that is of 64 bytes.

    A CPU's kernels sum in an order that depends on a row's alignment; so every row is aligned alike.
    """
    is_product = weight.ndim == 2 and name != "embedding.weight"
    return pad(weight, (0, -weight.shape[1] % 16)) if is_product else weight


def step(spec: ModelSpec, weights: Weights, values: Mapping[str, Tensor], states: States) -> tuple[list[Tensor], States]:
    """One step of M sessions. values: one per declared input, [M, *shape]; weights as prepared.

    Returns the outputs, one per head, [M, width], and the new states.
    """
    after: States = {}
    features = _front(spec, weights, values[spec.inputs[0].name], states, after)
    top = _cell(spec, weights, features, states, after)
    outputs = []
    for head in spec.heads:
        outputs.append(_head(head, weights, top, values))
        after[f"last.{head.name}"] = outputs[-1]
    return outputs, after


def _front(spec: ModelSpec, weights: Weights, value: Tensor, states: States, after: States) -> Tensor:
    """An input [M, F] or [M] -> features [M, input_size]."""
    front = cell_model(spec).front
    if isinstance(front, EmbeddingFront):
        return weights["embedding.weight"][value]
    if isinstance(front, FeaturesFront):
        if front.differences:
            after["previous"] = value
            value = torch.cat([value, value - states["previous"]], dim=1)
        return (value - value.new_tensor(front.mean)) / value.new_tensor(front.scale)
    return value


def _cell(spec: ModelSpec, weights: Weights, x: Tensor, states: States, after: States) -> Tensor:
    """Features [M, input_size] -> the top layer's new h [M, H]."""
    news = []
    for layer in range(cell_model(spec).cell.layers):
        before = [states[name][:, layer] for name in ("h", "c") if name in states]
        new = _layer(cell_model(spec).cell.kind, weights, layer, x, before)
        x = new[0]
        news.append(new)
    after |= {name: torch.stack(parts, dim=1) for name, parts in zip(("h", "c"), zip(*news, strict=True), strict=False)}
    return x


def _layer(kind: CellKind, weights: Weights, layer: int, x: Tensor, before: list[Tensor]) -> list[Tensor]:
    """One layer: x [M, inputs], h (and c) [M, H] -> new h (and c)."""
    from_x = _product(x, weights[f"cell.weight_ih_l{layer}"], weights[f"cell.bias_ih_l{layer}"])
    from_h = _product(before[0], weights[f"cell.weight_hh_l{layer}"], weights[f"cell.bias_hh_l{layer}"])
    if kind == "lstm":
        return _lstm(from_x + from_h, before[1])
    if kind == "gru":
        return [_gru(from_x, from_h, before[0])]
    return [torch.tanh(from_x + from_h)]


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x W' + b, with x filled up to the width of a prepared weight."""
    return linear(pad(x, (0, weight.shape[1] - x.shape[1])), weight, bias)


def _lstm(gates: Tensor, c: Tensor) -> list[Tensor]:
    """c' = f * c + i * g, h' = o * tanh(c')."""
    i, f, g, o = gates.chunk(4, dim=1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return [torch.sigmoid(o) * torch.tanh(c), c]


def _gru(from_x: Tensor, from_h: Tensor, h: Tensor) -> Tensor:
    """n = tanh(x_n + r * h_n), h' = (1 - z) * n + z * h."""
    x_r, x_z, x_n = from_x.chunk(3, dim=1)
    h_r, h_z, h_n = from_h.chunk(3, dim=1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    return (1 - z) * n + z * h


def _head(head: HeadSpec, weights: Weights, top: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """Top layer's h [M, H] -> output [M, width]."""
    value = _product(top, weights[f"head.{head.name}.weight"], weights[f"head.{head.name}.bias"])
    value = value * head.scale + head.offset
    if head.residual_of:
        value = value + values[head.residual_of][:, :1]
    return value.sort(dim=1).values if head.kind == "quantiles" else value
