"""Ten step functions such as people train, as torch modules of a few thousand weights: how each is saved, and what it gives.

Each takes inputs, then states, with the batch in front, and gives outputs, then states, unless its docstring says otherwise.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stepstream_server.bundles import Bundle, Input, Output, save_program

WORDS = ("the", "tide", "comes", "in", "and", "goes", "out", "again", "today", "early", "late")


class MlpHead(nn.Module):
    """A cell with two layers and an activation behind it, which predict the next reading."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(2, 16)
        self.head = nn.Sequential(nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 2))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, 2], h [B, 16] -> y [B, 2], h."""
        h = self.cell(x, h)
        return self.head(h), h


class LayerNorm(nn.Module):
    """Layers that are normalised between and behind, with dropout that only training knows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTMCell(3, 12), nn.LSTMCell(12, 12)
        self.between, self.behind = nn.LayerNorm(12), nn.LayerNorm(12)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(12, 3)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, 3], h and c [B, 2, 12] -> y [B, 3], h, c."""
        h0, c0 = self.first(x, (h[:, 0], c[:, 0]))
        h1, c1 = self.second(self.drop(self.between(h0)), (h[:, 1], c[:, 1]))
        return self.head(self.behind(h1)), torch.stack([h0, h1], 1), torch.stack([c0, c1], 1)


class ConvFront(nn.Module):
    """A convolution over a frame and the samples before it, which it remembers itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.cell, self.head = nn.Conv1d(1, 6, 5, stride=2), nn.LSTMCell(6, 10), nn.Linear(10, 1)

    def forward(self, frame: Tensor, left: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """frame [B, 16], left [B, 4], h and c [B, 10] -> speech [B, 1], left, h, c."""
        heard = torch.cat([left, frame], 1)
        features = torch.relu(self.conv(heard[:, None])).amax(2)
        h, c = self.cell(features, (h, c))
        return torch.sigmoid(self.head(h)), heard[:, -4:], h, c


class CellLoop(nn.Module):
    """Cells called one by one, in the usual nested form: (x, (h, c)) -> (y, (h, c))."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(3, 8), nn.LSTMCell(8, 8), nn.LSTMCell(8, 8)])
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, 3], h and c [B, 3, 8] -> y [B, 2], (h, c)."""
        hs, cs = [], []
        for index, cell in enumerate(self.cells):
            x, c = cell(x, (state[0][:, index], state[1][:, index]))
            hs.append(x)
            cs.append(c)
        return self.head(x), (torch.stack(hs, 1), torch.stack(cs, 1))


class TwoInputs(nn.Module):
    """A reading and which of seven devices it comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.device = nn.Embedding(7, 4)
        self.cell, self.mean, self.alarm = nn.GRUCell(3 + 4, 12), nn.Linear(12, 1), nn.Linear(12, 3)

    def forward(self, reading: Tensor, device: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """reading [B, 3], device [B], h [B, 12] -> mean [B, 1], alarm [B, 3], h."""
        h = self.cell(torch.cat([reading, self.device(device)], 1), h)
        return self.mean(h), self.alarm(h), h


class Projected(nn.Module):
    """An nn.LSTM with projections as people call it, its states with the batch on axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 12, 2, batch_first=True, proj_size=5), nn.Linear(5, 2)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [B, 3], h [2, B, 5], c [2, B, 12] -> y [B, 2], (h, c)."""
        y, state = self.lstm(x[:, None], state)
        return self.head(y[:, 0]), state


class GruOverLstm(nn.Module):
    """Cells of two kinds, one on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.upper, self.head = nn.LSTMCell(3, 10), nn.GRUCell(10, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B, 3], h and c [B, 10], g [B, 6] -> y [B, 2], h, c, g."""
        h, c = self.lower(x, (h, c))
        g = self.upper(h, g)
        return self.head(g), h, c, g


class Slstm(nn.Module):
    """The sLSTM of the xLSTM paper (Beck et al., 2024): exponential gates, kept finite by the largest exponent so far."""

    WIDTH = 33  # odd, so that no row is a whole number of vectors

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.head = nn.Linear(3 + self.WIDTH, 4 * self.WIDTH), nn.Linear(self.WIDTH, 2)

    def forward(self, x: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        """x [B, 3], states [B, 33] -> y [B, 2], h, c, n, m."""
        z, i, f, o = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        remembered = m - nn.functional.softplus(-f)  # logsigmoid would become Log(Sigmoid(f)), and that -inf
        largest = torch.maximum(remembered, i)
        keep, add = torch.exp(remembered - largest), torch.exp(i - largest)
        c, n = keep * c + add * torch.tanh(z), keep * n + add
        h = torch.sigmoid(o) * c / n.clamp_min(1e-6)
        return self.head(h), h, c, n, largest


class StateSpace(nn.Module):
    """A diagonal state-space cell whose step size, input and output depend on what it reads, as in Mamba."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.step = nn.Linear(3, 8), nn.Linear(8, 8)
        self.read, self.write = nn.Linear(8, 4), nn.Linear(8, 4)
        self.decay, self.head = nn.Parameter(torch.arange(1.0, 5.0).log().repeat(8, 1)), nn.Linear(8, 2)

    def forward(self, x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, 3], s [B, 8, 4] -> y [B, 2], s."""
        u = nn.functional.silu(self.mix(x))
        dt = nn.functional.softplus(self.step(u))[:, :, None]
        s = torch.exp(-dt * self.decay.exp()) * s + dt * u[:, :, None] * self.write(u)[:, None]
        return self.head((s * self.read(u)[:, None]).sum(2)), s


class Attention(nn.Module):
    """The next word, by attention over the keys of the last sixteen, which are kept as a ring with a position."""

    SLOTS, WIDTH = 16, 12

    def __init__(self) -> None:
        super().__init__()
        self.words, self.query = nn.Embedding(len(WORDS), self.WIDTH), nn.Linear(self.WIDTH, self.WIDTH)
        self.cell, self.head = nn.GRUCell(2 * self.WIDTH, self.WIDTH), nn.Linear(self.WIDTH, len(WORDS))

    def forward(self, word: Tensor, h: Tensor, memory: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """word and position [B], h [B, 12], memory [B, 16, 12] -> next [B, 11], h, memory, position."""
        slots = torch.arange(self.SLOTS)
        read = self.words(word)
        here = slots == position[:, None] % self.SLOTS
        memory = torch.where(here[:, :, None], read[:, None], memory)
        scores = (memory * self.query(h)[:, None]).sum(2).masked_fill(slots > position[:, None], -1e9)
        found = (scores.softmax(1)[:, :, None] * memory).sum(1)
        h = self.cell(torch.cat([read, found], 1), h)
        return self.head(h), h, memory, position + 1


@dataclass(frozen=True, slots=True)
class Kind:
    """A module and the declarations with which it is saved."""

    module: type[nn.Module]
    inputs: Mapping[str, Any]
    states: Mapping[str, Any]
    outputs: Any
    told: Mapping[str, Any] = field(default_factory=dict)
    nested: bool = False  # it takes and gives the states as one tuple
    axis: int = 0  # of the batch in its states

    def make(self) -> nn.Module:
        """The module with its weights, the same at every call, in training mode as torch makes it."""
        torch.manual_seed(16)
        return self.module()

    def save(self, directory: Path) -> Bundle:
        """Exports it and writes its bundle."""
        return save_program(directory, self.make(), self.inputs, self.states, self.outputs, **self.told)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs that torch computes for new sessions, step by step: inputs [B, T, *shape] -> outputs [B, T, *shape]."""
        module, given = self.make().eval(), [torch.from_numpy(inputs[name]) for name in self.inputs]
        states = [self._first(state, len(given[0])) for state in self.states.values()]
        steps = []
        for step in range(given[0].shape[1]):
            outputs, states = self._step(module, [each[:, step] for each in given], states)
            steps.append(outputs)
        return {name: torch.stack(each, 1).numpy() for name, each in zip(self.outputs, zip(*steps, strict=True), strict=True)}

    def _step(self, module: nn.Module, inputs: list[Tensor], states: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
            results = module(*inputs, *([states] if self.nested else states))
        if self.nested:
            return [results[0]], list(results[1])
        return list(results[: len(self.outputs)]), list(results[len(self.outputs) :])

    def _first(self, state: Any, sessions: int) -> Tensor:
        first = torch.zeros(state) if isinstance(state, tuple) else torch.from_numpy(np.array(state))
        first = first.float() if first.is_floating_point() else first
        return torch.stack([first] * sessions, self.axis)


KINDS: dict[str, Kind] = {
    "mlp_head": Kind(MlpHead, {"x": Input((2,), range=100.0)}, {"h": (16,)}, {"y": Output(predicts="x")}),
    "layer_norm": Kind(LayerNorm, {"x": (3,)}, {"h": (2, 12), "c": (2, 12)}, ["y"]),
    "conv_front": Kind(ConvFront, {"frame": Input((16,), range=1.0)}, {"left": (4,), "h": (10,), "c": (10,)}, ["speech"]),
    "cell_loop": Kind(CellLoop, {"x": (3,)}, {"h": (3, 8), "c": (3, 8)}, ["y"], nested=True),
    "two_inputs": Kind(
        TwoInputs,
        {"reading": (3,), "device": Input(np.int64(0), limit=7)},
        {"h": (12,)},
        {"mean": Output(), "alarm": Output("classes", labels=("none", "low", "high"))},
    ),
    "proj_size": Kind(Projected, {"x": (3,)}, {"h": (2, 5), "c": (2, 12)}, ["y"], nested=True, axis=1),
    "gru_over_lstm": Kind(GruOverLstm, {"x": (3,)}, {"h": (10,), "c": (10,), "g": (6,)}, ["y"]),
    "slstm": Kind(Slstm, {"x": (3,)}, {"h": (33,), "c": (33,), "n": (33,), "m": np.full(33, -10.0)}, ["y"]),
    "state_space": Kind(StateSpace, {"x": (3,)}, {"s": (8, 4)}, ["y"]),
    "attention": Kind(
        Attention,
        {"word": Input(np.int64(0), limit=len(WORDS))},
        {"h": (12,), "memory": (16, 12), "position": np.int64(0)},
        {"next": Output("next_token", labels=WORDS)},
        {"text": "words"},
    ),
}
