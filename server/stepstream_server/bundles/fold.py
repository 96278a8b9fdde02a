"""Folds what is linear around a cell into the cell's and the heads' weights, so that it costs no node and no state. Numpy only.

A product with a product is one product: W (A x + b) = (W A) x + W b. What is folded is summed in float64 and rounded once, so
that outputs differ from the unfolded model's as those of two kernels do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stepstream_server.bundles.check import Weights
from stepstream_server.bundles.fields import wrong


def fold(weights: Weights, layers: int) -> Weights:
    """Weights as `declare.weight_shapes` has them, of those that also have a linear front or projections.

    `front.weight` [input_size, F] and `front.bias` [input_size] stand before the first layer; `cell.weight_hr_l{k}` [P, H], which
    every layer or none has, turns a layer's h into what all others read. Raises BundleError naming weights that do not fit.
    """
    folded = dict(weights)
    if "front.weight" in weights:
        _fold_front(folded)
    if "cell.weight_hr_l0" in weights:
        for layer in range(layers):
            _fold_projection(folded, layer, is_top=layer == layers - 1)
    return folded


def _fold_front(weights: Weights) -> None:
    reader = "cell.weight_ih_l0"
    weight, bias = _product(weights, reader, "front.weight"), _product(weights, reader, "front.bias")
    weights |= {reader: weight, "cell.bias_ih_l0": weights["cell.bias_ih_l0"] + bias}
    del weights["front.weight"], weights["front.bias"]


def _fold_projection(weights: Weights, layer: int, *, is_top: bool) -> None:
    """Whoever reads a layer's projected h reads its h instead: the layer itself, and the layer above or the heads."""
    heads = [name for name in weights if name.startswith("head.") and name.endswith(".weight")]
    readers = heads if is_top else [f"cell.weight_ih_l{layer + 1}"]
    projection = f"cell.weight_hr_l{layer}"
    for reader in (f"cell.weight_hh_l{layer}", *readers):
        weights[reader] = _product(weights, reader, projection)
    del weights[projection]


def _product(weights: Weights, left: str, right: str) -> NDArray[np.float32]:
    """The weight `left` [rows, n] times the weight `right`, [n, columns] or [n]."""
    columns, rows = weights[left].shape[-1], len(weights[right])
    if columns != rows:
        raise wrong("save", left, f"{rows} columns, as many as {right} has rows", f"{columns}")
    product: NDArray[np.float64] = weights[left].astype(np.float64) @ weights[right].astype(np.float64)
    return product.astype(np.float32)
