"""Finds the operators of ONNX Runtime whose bits depend on where a buffer ends: their vector code leaves a rest to scalar code.

A value that stands in the rest of one batch stands in the middle of another, and comes out with other bits. Programs with such
an operator are computed in launches of a multiple of 8 rows (`programs/buffer_end.py` holds the list that this prints).

    python scripts/buffer_end_operators.py
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

# Elementwise operators of ONNX on float32, with the largest opset at which they take one input. Softmax, normalisation and
# products work along an axis of one row and are judged by the trial alone.
_UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor"),
    *("Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid"),
    *("Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu"),
)
_BINARY = ("Add", "Div", "Max", "Min", "Mul", "Pow", "PRelu", "Sub")
_MICROSOFT = ("BiasGelu", "FastGelu", "QuickGelu")
_WIDTHS = (*range(1, 18), 31, 33)  # numbers of a row
_LONGEST = 64  # rows of the buffer that is compared with


def main() -> None:
    """Prints each operator that depends on it, and the smallest multiple of rows at which none of its widths does."""
    for name, multiple in dependent().items():
        print(f"{name}: {multiple or 'no multiple up to 16'}")


def dependent() -> dict[str, int]:
    """The operators that depend on it, each with the smallest multiple of rows at which none of its widths does; 0: none up to
    16."""
    found = {name: _least_multiple(_session(domain, name, inputs), inputs) for domain, name, inputs in _operators()}
    return {name: multiple for name, multiple in found.items() if multiple != 1}


def _operators() -> Iterator[tuple[str, str, int]]:
    yield from (("", name, 1) for name in _UNARY)
    yield from (("", name, 2) for name in _BINARY)
    yield from (("com.microsoft", name, 2 if name.startswith("Bias") else 1) for name in _MICROSOFT)


def _session(domain: str, name: str, inputs: int) -> ort.InferenceSession:
    names = [f"x{index}" for index in range(inputs)]
    node = helper.make_node(name, names, ["y"], domain=domain)
    values = [helper.make_tensor_value_info(each, TensorProto.FLOAT, ["B", "W"]) for each in [*names, "y"]]
    if name == "BiasGelu":
        values[1] = helper.make_tensor_value_info("x1", TensorProto.FLOAT, ["W"])
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([node], name, values[:-1], values[-1:]), opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _least_multiple(session: ort.InferenceSession, inputs: int) -> int:
    """The smallest of 1, 2, 4, 8 and 16 such that every number of rows that it divides gives each row equal bits; 0: none."""
    for multiple in (1, 2, 4, 8, 16):
        if all(_agree(session, inputs, width, multiple) for width in _WIDTHS):
            return multiple
    return 0


def _agree(session: ort.InferenceSession, inputs: int, width: int, multiple: int) -> bool:
    """Tells whether rows of so many numbers come out alike in every buffer of a multiple of rows, wherever they stand."""
    rng = np.random.default_rng(width)
    values: list[NDArray[np.float32]] = [rng.uniform(0.01, 3, (_LONGEST, width)).astype(np.float32) for _ in range(inputs)]
    if session.get_modelmeta().graph_name == "BiasGelu":
        values[1] = values[1][0]
    expected = _run(session, values)
    return all(
        _run(session, [each[:rows] if each.ndim == 2 else each for each in values]).tobytes() == expected[:rows].tobytes()
        for rows in range(multiple, _LONGEST + 1, multiple)
    )


def _run(session: ort.InferenceSession, values: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    (result,) = session.run(None, {f"x{index}": value for index, value in enumerate(values)})
    found: NDArray[np.float32] = result
    return found


if __name__ == "__main__":
    main()
