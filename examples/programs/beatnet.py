"""BeatNet, which hears beats and downbeats, as a torch module of one step; its authors' weights are read without unpickling.

A step is a hop of 20 ms: a spectrogram of 136 bands and its change since the hop before, as the package computes them.
"""

from __future__ import annotations

import itertools
import math
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES, HIDDEN, LAYERS = 272, 150, 2
_FOLDED = 262  # the convolution's two channels, of which the larger of each two neighbours is kept
# A .pt file is a zip: `data.pkl`, which says what lies where and which nobody should unpickle, and the numbers themselves. In
# this file, which is pinned, they are one array per tensor in the order of the layers; only those of the LSTM are one array, the
# matrices of all its layers in front of the vectors.
_LSTM = [f"lstm.{kind}_{way}_l{layer}" for kind in ("weight", "bias") for layer in range(LAYERS) for way in ("ih", "hh")]
_ARRAYS = [["conv1.weight"], ["conv1.bias"], ["linear0.weight"], ["linear0.bias"], _LSTM, ["linear.weight"], ["linear.bias"]]


class Step(nn.Module):
    """x [B, 272], h and c [2, B, 150] -> logits of beat, downbeat and neither [B, 3], h, c."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(1, 2, 10)
        self.linear0 = nn.Linear(_FOLDED, HIDDEN)
        self.lstm = nn.LSTM(HIDDEN, HIDDEN, LAYERS, batch_first=True)
        self.linear = nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One hop."""
        heard = functional.max_pool1d(functional.relu(self.conv1(x[:, None])), 2)
        y, (h, c) = self.lstm(self.linear0(heard.flatten(1))[:, None], (h, c))
        return self.linear(y[:, 0]), h, c


def read(path: Path) -> Step:
    """The module with the weights of the package's file."""
    module = Step().eval()
    state = module.state_dict()
    with zipfile.ZipFile(path) as file:
        for index, names in enumerate(_ARRAYS):
            numbers = np.frombuffer(file.read(f"archive/data/{index}"), "<f4")
            ends = list(itertools.accumulate(math.prod(state[name].shape) for name in names))
            for name, part in zip(names, np.split(numbers, ends[:-1]), strict=True):
                state[name] = torch.tensor(part).reshape(state[name].shape)
    module.load_state_dict(state)
    return module
