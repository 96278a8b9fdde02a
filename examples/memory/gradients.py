"""How much the answer's loss depends on the memory of earlier steps: norms of its gradient with respect to h and c.

The loss is that of the right language at the blank. What is told is the norm at a step `lag` steps before the blank, relative to
the norm at the blank itself: 1 means that training feels a change of that memory as strongly as one of the present. It is the
whole derivative: that of c includes what reaches the loss by way of h.
"""

from __future__ import annotations

import numpy as np
import torch
from memory.network import Network
from memory.recall import held_out_stories
from numpy.typing import NDArray
from torch import Tensor, nn

Ratios = NDArray[np.float64]
CELLS: dict[type[nn.RNNBase], type[nn.LSTMCell] | type[nn.GRUCell] | type[nn.RNNCell]] = {
    nn.LSTM: nn.LSTMCell,
    nn.GRU: nn.GRUCell,
    nn.RNN: nn.RNNCell,
}


def gradient_ratios(network: Network, distance: int, count: int) -> dict[str, Ratios]:
    """State, `h` and for an LSTM `c` -> ratios [distance + 1] by lag, over `count` held-out stories the geometric mean.

    Lag 0 is the step of the blank, lag `distance` the one that reads the country. In float64, since a vanishing gradient would
    otherwise be lost in rounding.
    """
    tokens, answers = (torch.from_numpy(array) for array in held_out_stories(distance, count))
    vectors = network.embedding(tokens).detach().double()
    cell = _cell(network.cell)
    states: list[tuple[Tensor, ...]] = []
    state: tuple[Tensor, ...] | None = None
    for at in range(tokens.shape[1]):
        stepped = cell(vectors[:, at], state if state is None or isinstance(cell, nn.LSTMCell) else state[0])
        state = stepped if isinstance(stepped, tuple) else (stepped,)
        for each in state:
            each.retain_grad()
        states.append(state)
    scores = nn.functional.linear(states[-1][0], network.next.weight.double(), network.next.bias.double())
    nn.functional.cross_entropy(scores, answers, reduction="sum").backward()  # type: ignore[no-untyped-call]
    names = ("h", "c")[: len(states[0])]
    return {name: _ratios([each[index] for each in reversed(states)], distance) for index, name in enumerate(names)}


def _cell(module: nn.RNNBase) -> nn.LSTMCell | nn.GRUCell | nn.RNNCell:
    """The same layer one step at a time, so that every step's state can be asked for its gradient."""
    cell = CELLS[type(module)](module.input_size, module.hidden_size)
    cell.load_state_dict({name.removesuffix("_l0"): weight for name, weight in module.state_dict().items()})
    return cell.double()


def _ratios(states: list[Tensor], distance: int) -> Ratios:
    """From states [count, H] with gradients, the last step's first."""
    norms = torch.stack([state.grad.norm(dim=1) for state in states[: distance + 1] if state.grad is not None])
    logs: Ratios = norms.log().mean(dim=1).numpy()
    ratios: Ratios = np.exp(logs - logs[0])
    return ratios
