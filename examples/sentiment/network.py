"""The network: word embedding, LSTM, and a score after every word."""

from __future__ import annotations

from torch import Tensor, nn

WIDTH = 48  # of the embedding
HIDDEN = 128
SPREAD = 0.1  # standard deviation of embeddings at the beginning; from torch's, 1, chance would long outweigh what is learnt


class Network(nn.Module):
    """Tokens [batch, steps] -> scores [batch, steps]; in training, a share of what the LSTM reads and writes is dropped."""

    def __init__(self, words: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, WIDTH)
        nn.init.normal_(self.embedding.weight, std=SPREAD)
        self.cell = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
        self.score = nn.Linear(HIDDEN, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.cell(self.dropout(self.embedding(tokens)))
        scores: Tensor = self.score(self.dropout(hidden))
        return scores[..., 0]
