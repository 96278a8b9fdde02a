"""Trains the `code` model: one byte of Python source in per step, the distribution of the next byte out.

An LSTM learns to predict each byte from those before it in the same file (Graves, Generating Sequences With Recurrent Neural
Networks, 2013). Many files are read side by side, window by window; the state goes on from window to window and is zero where a
file begins, as it is where a session does. The held-out files are not used.
"""

from __future__ import annotations

import argparse
import itertools
import math
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from corpus import Files, load, split
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn

from stepstream_server.bundles import Bundle, Head, TextSpec, save

BUNDLE = Path(__file__).parents[2] / "models" / "code"
TOKENS = 256
EMBEDDED = 32
FORGET_BIAS = 1.0  # the memory begins open: what is kept can be learnt before what to keep is
PADDING = -100  # a target that does not count: cross_entropy's default
LICENCE = (
    "Weights derived from the Python standard library, (c) Python Software Foundation, which is available under the "
    "PSF License Agreement (PSF-2.0), https://docs.python.org/3/license.html: keep this attribution with them."
)

State = tuple[Tensor, Tensor]
Window = tuple[NDArray[np.int64], NDArray[np.int64], bool]  # bytes [steps], the bytes after them, whether a file begins


@dataclass(frozen=True, slots=True)
class Schedule:
    """How to train. The learning rate and the batch were chosen by short runs on the files trained on."""

    iterations: int = 5000
    batch: int = 32  # files read side by side
    steps: int = 128  # bytes per window, through which gradients reach back: about three lines
    hidden: int = 512
    learning_rate: float = 4e-3  # at the height
    warming: int = 100  # iterations until the learning rate has risen to its height
    cooling: float = 0.4  # last share of the iterations, in which it falls to 0 along a cosine
    gradient_norm: float = 1.0  # gradients are scaled down to it
    float32: bool = False  # otherwise products are bfloat16, twice as fast where the processor has it
    seed: int = 0


class Writer(nn.Module):
    """Bytes [steps, batch] -> logits of the next byte [steps, batch, 256]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, EMBEDDED)
        self.lstm = nn.LSTM(EMBEDDED, hidden)
        self.next = nn.Linear(hidden, TOKENS)
        with torch.no_grad():
            dict(self.lstm.named_parameters())["bias_ih_l0"][hidden : 2 * hidden] = FORGET_BIAS

    def begin(self, batch: int) -> State:
        """The state of sessions that have just begun: h and c, each [1, batch, hidden]."""
        zero = torch.zeros(1, batch, self.lstm.hidden_size)
        return zero, zero

    def forward(self, read: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, state = self.lstm(self.embedding(read), state)
        return self.next(hidden), state


def shuffled(files: Files, random: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """All files again and again, each time in another order."""
    contents = [np.frombuffer(content, np.uint8) for content in files.values()]
    while True:
        yield from (contents[index] for index in random.permutation(len(contents)))


def cut(files: Iterator[NDArray[np.uint8]], steps: int) -> Iterator[Window]:
    """Files as windows of equal length; the last one of each is filled up with targets that do not count."""
    for content in files:
        for begin in range(0, len(content) - 1, steps):
            piece = content[begin : begin + steps + 1]
            read, follows = np.zeros(steps, np.int64), np.full(steps, PADDING, np.int64)
            read[: len(piece) - 1], follows[: len(piece) - 1] = piece[:-1], piece[1:]
            yield read, follows, begin == 0


def windows(files: Files, schedule: Schedule) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Bytes and targets [steps, batch], and which rows begin a file [batch]. Row k goes on where row k of the last batch ended;
    all rows take their next file from one pile."""
    pile = shuffled(files, np.random.default_rng(schedule.seed))
    rows = zip(*(cut(pile, schedule.steps) for _ in range(schedule.batch)), strict=True)
    for batch in itertools.islice(rows, schedule.iterations):
        read, follows, begins = (np.stack(column) for column in zip(*batch, strict=True))
        yield torch.from_numpy(read.T.copy()), torch.from_numpy(follows.T.copy()), torch.from_numpy(begins)


def learning_rate(schedule: Schedule, iteration: int) -> float:
    """A short rise, a plateau, and a cosine down to 0; as a share of the schedule's.

    Until it cools, training does not depend on how long it will be.
    """
    cooled = max(0.0, 1 - (1 - iteration / schedule.iterations) / schedule.cooling)
    return min(1.0, (iteration + 1) / schedule.warming) * (1 + math.cos(math.pi * cooled)) / 2


def train(files: Files, schedule: Schedule) -> tuple[Writer, list[float]]:
    """A trained model, and the loss of each iteration in bits per byte. The same schedule gives the same model."""
    torch.manual_seed(schedule.seed)
    model = Writer(schedule.hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.learning_rate)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda iteration: learning_rate(schedule, iteration))
    state, losses = model.begin(schedule.batch), []
    for read, follows, begins in track(windows(files, schedule), total=schedule.iterations, description="training"):
        kept = (~begins).float()[None, :, None]
        with torch.autocast("cpu", torch.bfloat16, enabled=not schedule.float32):
            logits, (h, c) = model(read, (state[0] * kept, state[1] * kept))
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), follows.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), schedule.gradient_norm)
        optimizer.step()
        rates.step()
        state = h.detach().float(), c.detach().float()
        losses.append(loss.item() / math.log(2))
    return model, losses


def save_bundle(model: Writer, files: Files, directory: Path) -> Bundle:
    """Writes the model, trained on `files`, so that it takes bytes and answers with logits of the next one."""
    size = sum(map(len, files.values()))
    return save(
        directory,
        model.lstm,
        {"next": Head(model.next, kind="next_token", description="Logits of the next byte.")},
        name="code",
        version=1,
        front=model.embedding,
        input_name="byte",
        input_description="One byte of Python source.",
        description="Continues Python source byte by byte. A small model: what it writes looks like code and rarely runs.",
        licence=LICENCE,
        provenance=(
            f"examples/code/train_code.py on {len(files)} files, {size} bytes, of the standard library of "
            f"Python {platform.python_version()}, without tests, IDLE and tables."
        ),
        text=TextSpec("bytes"),
        half=True,
    )


def main() -> None:
    """Trains on all files but the held-out ones and writes the bundle."""
    standard = Schedule()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUNDLE, help="folder of the bundle (default: the shipped one)")
    parser.add_argument("--iterations", type=int, default=standard.iterations, help="default: %(default)s")
    parser.add_argument("--hidden", type=int, default=standard.hidden, help="size of the LSTM; default: %(default)s")
    parser.add_argument("--float32", action="store_true", help="for processors without bfloat16; gives other weights")
    parser.add_argument("--seed", type=int, default=standard.seed, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="more may be faster and give other weights; default: %(default)s")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    files, _ = split(load())
    schedule = Schedule(iterations=options.iterations, hidden=options.hidden, float32=options.float32, seed=options.seed)
    model, losses = train(files, schedule)
    bundle = save_bundle(model, files, options.out)
    print(f"{np.mean(losses[:50]):.3f} bits per byte in the first, {np.mean(losses[-50:]):.3f} in the last 50 iterations")
    print(f"wrote {bundle.path}")


if __name__ == "__main__":
    main()
