"""Models of every kind for the promises: cells, and a program that does not compute like a cell.

The program's operators give bits that depend on where a buffer ends, so that its launches are padded to a multiple of 8 rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.bundles import Bundle, write, write_program
from stepstream_server.spec import StateSpec
from support.graphs import floats, graph, program
from support.models import random_model

KINDS = ["lstm", "gru", "rnn", "program"]
_TEXT = """
soft (float[B,I] x, float[2,B,H] h) => (float[B,O] y, float[2,B,H] hn) {
    fed = MatMul(x, w)
    kept = MatMul(h, r)
    sum = Add(kept, fed)
    soft = Softplus(sum)
    less = Sub(soft, half)
    hn = Tanh(less)
    top = Gather <axis = 0> (hn, one)
    y = MatMul(top, out)
}
"""


def write_model(
    folder: Path, kind: str, inputs: int, hidden: int, layers: int = 1, outputs: int = 1, *, seed: int = 0, predicts: bool = False
) -> Bundle:
    """A model named as its folder with random weights: input `x` [inputs], output `y` [outputs], state `h` among others.

    predicts: a rollout of a program feeds its output back.
    """
    if kind != "program":
        cell, weights = random_model(kind, inputs, hidden, layers, outputs, seed=seed, name=folder.name)  # type: ignore[arg-type]
        return write(folder, cell, weights)
    text = _TEXT.replace("B,I]", f"B,{inputs}]").replace("B,H]", f"B,{hidden}]").replace("B,O]", f"B,{outputs}]")
    spec = program(
        [floats("x", inputs, range=100.0)],
        [StateSpec("h", (2, hidden))],
        [floats("y", outputs)],
        axes={"h": 1},
        predicts="x" if predicts else "",
        name=folder.name,
    )
    model = graph(text, half=np.array(0.5, np.float32), one=np.array(1), **_weights(inputs, hidden, outputs, seed))
    return write_program(folder, spec, model.SerializeToString())


def program_reference(readings: NDArray[np.float32], hidden: int, outputs: int, seed: int) -> NDArray[np.float64]:
    """Outputs of the program in double precision: readings [sessions, steps, inputs] -> [sessions, steps, outputs]."""
    sessions, steps, inputs = readings.shape
    w, r, out = (value.astype(np.float64) for value in _weights(inputs, hidden, outputs, seed).values())
    h, found = np.zeros((2, sessions, hidden)), np.empty((sessions, steps, outputs))
    for step in range(steps):
        h = np.tanh(np.logaddexp(0, h @ r + readings[:, step] @ w) - 0.5)
        found[:, step] = h[1] @ out
    return found


def _weights(inputs: int, hidden: int, outputs: int, seed: int) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    shapes = {"w": (inputs, hidden), "r": (hidden, hidden), "out": (hidden, outputs)}
    return {name: (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32) for name, shape in shapes.items()}
