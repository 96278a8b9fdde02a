"""The three networks of the comparison: embedding, one recurrent layer, and a score for every word of the vocabulary."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stepstream_server.bundles import Bundle
from stepstream_server.spec import cell_model

Kind = Literal["lstm", "gru", "rnn"]
KINDS: dict[Kind, type[nn.LSTM] | type[nn.GRU] | type[nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
NAMES: dict[Kind, str] = {"lstm": "LSTM", "gru": "GRU", "rnn": "tanh RNN"}
WIDTH = 64  # of the embedding
# As many parameters in each recurrent layer, about 99,000: what an LSTM spends on gates the others have in more units.
HIDDEN: dict[Kind, int] = {"lstm": 128, "gru": 152, "rnn": 284}


class Network(nn.Module):
    """Tokens [batch, steps] -> scores of the next token [batch, steps, vocabulary]. Begins with torch's default weights."""

    def __init__(self, kind: Kind, vocabulary: int) -> None:
        super().__init__()
        self.kind = kind
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.cell = KINDS[kind](WIDTH, HIDDEN[kind], batch_first=True)
        self.next = nn.Linear(HIDDEN[kind], vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.cell(self.embedding(tokens))
        scores: Tensor = self.next(hidden)
        return scores

    @property
    def cell_parameters(self) -> int:
        """Numbers learnt in the recurrent layer."""
        return sum(parameter.numel() for parameter in self.cell.parameters())


def restore(bundle: Bundle) -> Network:
    """The network that a bundle was saved from, with the weights that the server computes with."""
    kind = cell_model(bundle.spec).cell.kind
    network = Network(kind, bundle.spec.heads[0].width)
    network.load_state_dict({name.removeprefix("head."): torch.from_numpy(weight) for name, weight in bundle.weights.items()})
    return network.eval()


def untrained_lstm(vocabulary: int, forget_bias: float | None = None, seed: int = 0) -> Network:
    """An LSTM as torch begins it; with `forget_bias`, the biases of its forget gates are that."""
    torch.manual_seed(seed)
    network = Network("lstm", vocabulary)
    if forget_bias is not None:
        units = HIDDEN["lstm"]
        with torch.no_grad():  # torch's order is i, f, g, o, and it adds two biases
            for name, bias in (("bias_ih_l0", forget_bias), ("bias_hh_l0", 0.0)):
                network.cell.get_parameter(name)[units : 2 * units] = bias
    return network.eval()
