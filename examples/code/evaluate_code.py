"""Measures the trained `code` bundle on held-out files, as it is served, beside gzip and n-gram models of the same files.

Prints the table of README.md and some continuations. Bits are what a coder would need that asks the model before each byte; the
server's own arithmetic makes the predictions, a session of its own for each file. The first byte of a file, which nothing
precedes, counts 8 bits.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from corpus import Files, load, load_shipped, split
from ngram import Ngram
from numpy.typing import NDArray

from stepstream_server.backends import build
from stepstream_server.bundles import Bundle
from stepstream_server.bundles import load as load_bundle
from stepstream_server.config import BackendSettings

BUNDLE = Path(__file__).parents[2] / "models" / "code"
WINDOW = 256  # bytes per launch; no output depends on it
CONTEXTS = (5, 7)  # of the n-gram models, in bytes
PROMPT = b"    def __init__(self, "


def bits(bundle: Bundle, contents: Sequence[bytes]) -> list[float]:
    """Bits of each file, one session for each."""
    arrays = [np.frombuffer(content, np.uint8).astype(np.int64) for content in contents]
    backend = build(bundle.spec, bundle.weights, BackendSettings(threads=1), slots=len(arrays), max_batch=len(arrays))
    slots = backend.allocate(len(arrays))
    total = np.full(len(arrays), 8.0)
    for begin in range(0, max(map(len, arrays)), WINDOW):
        for length, rows in _by_length([min(WINDOW, len(array) - 1 - begin) for array in arrays]).items():
            read = np.stack([arrays[row][begin : begin + length] for row in rows])
            follows = np.stack([arrays[row][begin + 1 : begin + 1 + length] for row in rows])
            logits = backend.collect(backend.launch("step", slots[rows], (read,), length)).outputs[0]
            total[rows] += surprise(logits, follows).sum(axis=1)
    return total.tolist()


def _by_length(lengths: Sequence[int]) -> dict[int, list[int]]:
    """Rows by how many bytes each has to read; those with none are left out."""
    rows: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        if length > 0:
            rows.setdefault(length, []).append(row)
    return rows


def surprise(logits: NDArray[np.float32], follows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bits [...] of what followed [...] under logits [..., 256]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(wide, follows[..., None], axis=-1)[..., 0]
    needed: NDArray[np.float64] = (np.log(np.exp(wide).sum(axis=-1)) - chosen) / np.log(2)
    return needed


def ngram_bits(trained: Files, context: int, contents: Sequence[bytes]) -> list[float]:
    """Bits of each file under the n-gram model of the files trained on."""
    model = Ngram(trained.values(), context)
    return [float(-np.log2(model.probabilities(content)).sum()) for content in contents]


def gzip_bits(content: bytes) -> int:
    """Bits of `gzip -9`."""
    return 8 * len(gzip.compress(content, compresslevel=9))


def per_byte(bundle: Bundle, held_out: Files, trained: Files | None = None) -> dict[str, float]:
    """Predictor -> bits per byte over all held-out bytes; the n-gram models only if there are files to train them on."""
    contents = list(held_out.values())
    size = sum(map(len, contents))
    needed: dict[str, float] = {"`gzip -9`, each file by itself": sum(map(gzip_bits, contents))}
    needed["`gzip -9`, all files as one"] = gzip_bits(b"".join(contents))
    if trained is not None:
        needed |= {f"n-gram, {context} bytes back": sum(ngram_bits(trained, context, contents)) for context in CONTEXTS}
    needed["`code`"] = sum(bits(bundle, contents))
    return {name: each / size for name, each in needed.items()}


def table(figures: Mapping[str, float]) -> str:
    """As README.md has it."""
    return "\n".join(["| | bits per byte |", "|---|---|", *(f"| {name} | {figure:.2f} |" for name, figure in figures.items())])


def write(bundle: Bundle, prompt: bytes, length: int, temperature: float, seed: int = 0) -> bytes:
    """`length` bytes after the prompt, each drawn from the distribution sharpened by the temperature; 0: the likeliest."""
    random = np.random.default_rng(seed)
    backend = build(bundle.spec, bundle.weights, BackendSettings(threads=1), slots=1, max_batch=1)
    slot = backend.allocate(1)
    read, written = np.frombuffer(prompt, np.uint8).astype(np.int64)[None], bytearray()
    for _ in range(length):
        logits = backend.collect(backend.launch("step", slot, (read,), read.shape[1])).outputs[0][0, -1].astype(np.float64)
        if temperature:  # the largest of logits with Gumbel noise is a draw from their distribution
            logits = logits / temperature + random.gumbel(size=logits.shape)
        written.append(int(logits.argmax()))
        read = np.array([[written[-1]]])
    return bytes(written)


def main() -> None:
    """Prints the table for the library's held-out files and for those shipped, and some continuations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="default: the shipped one")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    trained, held_out = split(load())
    shipped = load_shipped()
    print(f"{len(held_out)} held-out files, {sum(map(len, held_out.values()))} bytes:\n")
    print(table(per_byte(bundle, held_out, trained)))
    print(f"\n{len(shipped)} of them, which are shipped, {sum(map(len, shipped.values()))} bytes:\n")
    print(table(per_byte(bundle, shipped)))
    for temperature in (0.0, 0.5, 0.8):
        print(f"\nTemperature {temperature}:\n")
        print((PROMPT + write(bundle, PROMPT, 400, temperature)).decode(errors="replace"))


if __name__ == "__main__":
    main()
