"""A step function made of g2p-en, which spells English words as phonemes, so that `generate` writes them.

The package has an encoder that reads the letters of a word, and a decoder that begins where the encoder ends and writes its
phonemes. As one step function both share a vocabulary, first the letters, then the phonemes, and one state: a letter steps the
encoder, a phoneme the decoder, and the dot that closes the word both: the encoder, and then the decoder on its own beginning.
Text is words: behind "h e l l o ." comes "HH AH0 L OW1 END".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

# In the order of the package, whose first ones are "<pad>", "<unk>" and "</s>", and of phonemes "<pad>", "<unk>", "<s>", "</s>":
# words of one text have names of their own, without brackets.
LETTERS = ("pad", "unk", ".", *"abcdefghijklmnopqrstuvwxyz")
_SOUNDS = """AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH EH0 EH1 EH2 ER0 ER1 ER2 EY0
EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2 P R S SH T TH UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z
ZH"""  # of the CMU dictionary; a digit is the stress of a vowel
PHONEMES = ("PAD", "UNK", "BEGIN", "END", *_SOUNDS.split())
VOCABULARY = (*LETTERS, *PHONEMES)
CLOSE, BEGIN, END = LETTERS.index("."), PHONEMES.index("BEGIN"), VOCABULARY.index("END")
MOST_PHONEMES = 20  # of a word: the package writes no more
NEVER = -1e4  # the logit of letters, which are not written

Floats = NDArray[np.float32]


class Graph:
    """Nodes one behind the other; weights and numbers by their names."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]

    def number(self, value: float | list[int], dtype: type[np.generic] = np.int64) -> str:
        """A number, or some, of that dtype."""
        name = f"number.{len(self.initialisers)}"
        self.initialisers.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; returns its name."""
        return self.several(1, operator, *inputs, **attributes)[0]

    def several(self, count: int, operator: str, *inputs: str, **attributes: Any) -> list[str]:
        """A node with several outputs."""
        names = [f"{operator}.{len(self.nodes)}.{index}" for index in range(count)]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names

    def gru(self, which: str, x: str, h: str) -> str:
        """The next h [B, H] of a cell on x [B, E] with gates r, z, n one below the other, as torch's GRUCell has them.

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r * (W_hn h + b_hn)),
        h' = (1 - z) * n + z * h.
        """
        from_x = self.add("Gemm", x, f"{which}_w_ih", f"{which}_b_ih", transB=1)
        from_h = self.add("Gemm", h, f"{which}_w_hh", f"{which}_b_hh", transB=1)
        xs, hs = (self.several(3, "Split", each, axis=1) for each in (from_x, from_h))
        r, z = (self.add("Sigmoid", self.add("Add", xs[gate], hs[gate])) for gate in (0, 1))
        n = self.add("Tanh", self.add("Add", xs[2], self.add("Mul", r, hs[2])))
        new = self.add("Mul", self.add("Sub", self.number(1, np.float32), z), n)
        return self.add("Add", new, self.add("Mul", z, h))


def build(weights: Mapping[str, Floats]) -> onnx.ModelProto:
    """token [B], h [B, H] -> logits [B, 103], next_h [B, H]. weights: by the names that the package's file has."""
    graph = Graph(weights)
    letters, hidden = graph.number(len(LETTERS)), weights["enc_w_hh"].shape[1]
    row = graph.add("Unsqueeze", "token", graph.number([1]))  # [B, 1], to choose among rows
    is_letter, closes = graph.add("Less", row, letters), graph.add("Equal", row, graph.number(CLOSE))
    letter = graph.add("Min", "token", graph.number(len(LETTERS) - 1))
    read = graph.gru("enc", graph.add("Gather", "enc_emb", letter), "h")
    behind = graph.add("Where", closes, read, "h")  # where the decoder goes on
    spoken = graph.add("Sub", "token", letters)
    phoneme = graph.add("Where", graph.add("Less", spoken, graph.number(0)), graph.number(BEGIN), spoken)
    written = graph.gru("dec", graph.add("Gather", "dec_emb", phoneme), behind)
    reads_on = graph.add("And", is_letter, graph.add("Not", closes))
    graph.nodes.append(helper.make_node("Where", [reads_on, read, written], ["next_h"]))
    logits = graph.add("Gemm", written, "fc_w", "fc_b", transB=1)
    never = [logits, graph.number([0, len(LETTERS), 0, 0]), graph.number(NEVER, np.float32)]
    graph.nodes.append(helper.make_node("Pad", never, ["logits"]))
    sizes = {"token": ["B"], "h": ["B", hidden], "logits": ["B", len(VOCABULARY)], "next_h": ["B", hidden]}
    types = {"token": TensorProto.INT64}
    infos = [helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), size) for name, size in sizes.items()]
    proto = helper.make_graph(graph.nodes, "g2p", infos[:2], infos[2:], graph.initialisers)
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FIELDS: dict[str, Any] = {
    "name": "g2p",
    "text": "words",
    "inputs": [{"name": "token", "tensor": "token", "dtype": "int64", "shape": [], "limit": len(VOCABULARY)}],
    "states": [{"name": "h", "read": "h", "written": "next_h", "shape": [256]}],
    "outputs": [
        {"name": "next", "tensor": "logits", "shape": [len(VOCABULARY)], "kind": "next_token", "labels": list(VOCABULARY)}
    ],
}
