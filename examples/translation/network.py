"""The networks of `translate`: over whole texts, as they are trained, and step by step, as they are served."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from translation.pieces import until

WIDTH = 64  # of an embedding
HIDDEN = {True: 128, False: 136}  # units of each LSTM with attention, and without: about as many parameters in all
SLOTS = 24  # pieces of a source that attention reaches; the longest that is trained on has 14, with its tag
SILENT = -1e4  # the logit of what is not written

Rows = Sequence[Sequence[int]]  # texts as tokens
State = tuple[Tensor, Tensor]  # h and c, each [1, batch, hidden]


class Translator(nn.Module):
    """An LSTM that reads, and one that goes on from its state and writes; with attention or without.

    Attention looks, before each piece is written, at what the reading LSTM's h was behind each piece of the source. Without
    it, all that is known of the source is the state behind its end. One embedding serves what is read, what is written, and the
    choice of what is written next.
    """

    def __init__(self, vocabulary: int, *, attends: bool) -> None:
        super().__init__()
        self.attends, hidden = attends, HIDDEN[attends]
        self.embedding = nn.Embedding(vocabulary, WIDTH)
        self.encoder = nn.LSTM(WIDTH, hidden, batch_first=True)
        self.decoder = nn.LSTM(WIDTH, hidden, batch_first=True)
        if attends:
            self.query = nn.Linear(hidden, hidden, bias=False)
            self.place = nn.Embedding(SLOTS, hidden)
            nn.init.zeros_(self.place.weight)
        self.said = nn.Linear(2 * hidden if attends else hidden, WIDTH)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        nn.init.normal_(self.embedding.weight, std=WIDTH**-0.5)  # small, as weights of a last layer are; `embed` makes up for it

    def forward(self, sources: Rows, written: Rows) -> Tensor:
        """Logits of the next piece behind each that is written, text by text: [pieces, vocabulary].

        sources: up to the tag, which closes each. written: the tag, and the translation without its last token.
        """
        memory, behind, state = self.read(sources)
        h, left, _ = _run(self.decoder, self.embed(_padded(written)), written, state)
        return self.logits(self.say(h, memory, behind)[left >= 0])

    def read(self, sources: Rows) -> tuple[Tensor, Tensor, State]:
        """Reads sources. Returns what attention may look at [batch, longest, hidden], how many pieces are behind each place
        [batch, longest], below 0 where nothing is, and the state."""
        return _run(self.encoder, self.embed(_padded(sources)), sources)

    def embed(self, tokens: Tensor) -> Tensor:
        """Vectors of numbers of about 1: [..., WIDTH]."""
        vectors: Tensor = self.embedding(tokens) * math.sqrt(WIDTH)
        return vectors

    def say(self, h: Tensor, memory: Tensor, behind: Tensor) -> Tensor:
        """Says what comes next, as a vector [batch, steps, WIDTH], by the writing LSTM's h [batch, steps, hidden] and attention
        over the memory [batch, slots, hidden], by what is there and by how many pieces are behind it [batch, slots]: of a number
        in figures the place of a digit is all that counts."""
        if self.attends:
            keys = memory + self.place(behind.clamp(0, SLOTS - 1))
            scores = torch.matmul(self.query(h), keys.transpose(1, 2)).masked_fill(behind[:, None] < 0, SILENT)
            h = torch.cat([h, torch.matmul(scores.softmax(2), memory)], 2)
        return torch.tanh(self.said(h))

    def logits(self, said: Tensor) -> Tensor:
        """A score for each piece: [..., vocabulary]."""
        return nn.functional.linear(said, self.embedding.weight, self.bias)

    @torch.no_grad()
    def translate(self, sources: Rows, end: int, longest: int = SLOTS) -> list[list[int]]:
        """The likeliest piece again and again, up to the end, which is left out."""
        memory, behind, state = self.read(sources)
        token = torch.tensor([source[-1:] for source in sources])
        written: list[list[int]] = []
        for _ in range(longest):
            h, state = self.decoder(self.embed(token), state)
            token = self.logits(self.say(h, memory, behind)).argmax(2)
            written.append(token[:, 0].tolist())
        return [until(list(text), end) for text in zip(*written, strict=True)]


class Step(nn.Module):
    """The translator with attention as a step function: one piece in, the logits of the next one out.

    A source comes piece by piece and is remembered, up to SLOTS pieces; later ones still step the reading LSTM. The tag closes
    it: the writing LSTM goes on, on the tag and then on what it wrote. The end, fed, puts everything back to the beginning. Until
    the tag has come the end is all that is said, so that a source without a tag is translated as nothing.
    """

    def __init__(self, translator: Translator, tags: range, end: int) -> None:
        super().__init__()
        self.net, self.tags, self.end = translator, tags, end
        self.reader, self.writer = _cell(translator.encoder), _cell(translator.decoder)

    def forward(
        self, token: Tensor, h: Tensor, c: Tensor, memory: Tensor, position: Tensor, writes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """token, position [batch] int64, h, c [batch, hidden], memory [batch, SLOTS, hidden], writes [batch] bool, which is
        whether the tag has come -> logits [batch, vocabulary], and the states in the same order."""
        x, slots = self.net.embed(token), torch.arange(SLOTS)
        reads, over = ~writes, token == self.end
        read_h, read_c = self.reader(x, (h, c))
        h, c = torch.where(reads[:, None], read_h, h), torch.where(reads[:, None], read_c, c)
        here = reads[:, None] & (slots == position[:, None])
        memory = torch.where(here[:, :, None], read_h[:, None], memory)
        position = torch.clamp(position + reads, max=SLOTS)

        writes = writes | ((token >= self.tags.start) & (token < self.tags.stop))
        written_h, written_c = self.writer(x, (h, c))
        h, c = torch.where(writes[:, None], written_h, h), torch.where(writes[:, None], written_c, c)
        said = self.net.say(written_h[:, None], memory, position[:, None] - 1 - slots)[:, 0]
        ends = torch.where(torch.arange(self.net.bias.shape[0]) == self.end, 0.0, SILENT)
        logits = torch.where(writes[:, None], self.net.logits(said), ends)

        goes_on = ~over
        h, c, memory = h * goes_on[:, None], c * goes_on[:, None], memory * goes_on[:, None, None]
        return logits, h, c, memory, position * goes_on, writes & goes_on


def _cell(lstm: nn.LSTM) -> nn.LSTMCell:
    """An LSTM as what it does in one step, on the same weights."""
    cell = nn.LSTMCell(lstm.input_size, lstm.hidden_size)
    for name, weight in lstm.named_parameters():
        setattr(cell, name.removesuffix("_l0"), weight)
    return cell


def _run(lstm: nn.LSTM, x: Tensor, rows: Rows, state: State | None = None) -> tuple[Tensor, Tensor, State]:
    """h at each step [batch, longest, hidden], how many steps of its row are behind each [batch, longest], below 0 where a row
    has none, and the state behind each row's last."""
    lengths = torch.tensor([len(row) for row in rows])
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    h, state = lstm(packed, state)
    return pad_packed_sequence(h, batch_first=True)[0], lengths[:, None] - 1 - torch.arange(x.shape[1]), state


def _padded(rows: Rows) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
