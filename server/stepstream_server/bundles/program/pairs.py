"""Guesses which inputs of a graph are states, and which outputs they are written to: by names, else by shapes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from stepstream_server.errors import BundleError

# How files name a memory before a step and after it: h_in and h_out, state and stateN, h0 and hn, past and present.
_BEFORE = re.compile(
    r"^(?:past|prev|previous|old|in|init|initial|cur|current)[_.]|(?:[_.](?:in|prev|previous|old|past|init|initial)|_?0)$"
)
_AFTER = re.compile(r"^(?:present|new|next|out|updated)[_.]|(?:[_.](?:out|output|present|new|next|updated|t|1)|_?n)$")


class Tensor(NamedTuple):
    """An input or output of a graph, as it declares it."""

    name: str
    dtype: str
    dims: tuple[int | str, ...] | None  # sizes, or names of sizes ("" for one without a name); None: not declared


class Pair(NamedTuple):
    """A state: the input that it is read from, the output that it is written to, and why that is believed."""

    read: Tensor
    written: Tensor
    why: str


def pair(inputs: Sequence[Tensor], outputs: Sequence[Tensor], given: Mapping[str, str]) -> list[Pair]:
    """The states, in the order of inputs. given: pairs of names that are known. Raises BundleError for a name that is none, and
    for pairs of different dtypes."""
    pairs = [_given(inputs, outputs, *names) for names in given.items()]
    pairs += _by_names(*_left(inputs, outputs, pairs))
    if not pairs:
        pairs = _by_shapes(inputs, outputs)
    return sorted(pairs, key=lambda each: list(inputs).index(each.read))


def _given(inputs: Sequence[Tensor], outputs: Sequence[Tensor], read: str, written: str) -> Pair:
    before, after = _called(read, inputs, "an input"), _called(written, outputs, "an output")
    if before.dtype != after.dtype:
        raise BundleError(f"--state {read}={written}: expected tensors of one dtype, got {before.dtype} and {after.dtype}")
    return Pair(before, after, "as you said")


def _called(name: str, tensors: Sequence[Tensor], what: str) -> Tensor:
    for tensor in tensors:
        if tensor.name == name:
            return tensor
    raise BundleError(f"--state: expected {what} of the graph, {', '.join(each.name for each in tensors)}, got {name}")


def _left(inputs: Sequence[Tensor], outputs: Sequence[Tensor], pairs: Sequence[Pair]) -> tuple[list[Tensor], list[Tensor]]:
    """Tensors that are in no pair yet."""
    taken = {each.read.name for each in pairs}, {each.written.name for each in pairs}
    return [each for each in inputs if each.name not in taken[0]], [each for each in outputs if each.name not in taken[1]]


def _by_names(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Iterator[Pair]:
    """Tensors whose names agree and that could be one state; each is taken once."""
    free = list(outputs)
    for read in inputs:
        found = next((written for written in free if _could_be_one(read, written) and _names_agree(read, written)), None)
        if found is not None:
            free.remove(found)
            yield Pair(read, found, "by their names")


def _by_shapes(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> list[Pair]:
    """Tensors of a shape that one input and one output have. None, if that would leave nothing that a step brings or answers:
    both may be of one shape without being a state."""
    pairs = []
    for read in inputs:
        alike = [each for each in inputs if _shapes_agree(read, each)], [each for each in outputs if _shapes_agree(read, each)]
        if len(alike[0]) == len(alike[1]) == 1:
            pairs.append(Pair(read, alike[1][0], "by dtype and shape alone"))
    return pairs if len(pairs) < min(len(inputs), len(outputs)) else []


def _could_be_one(read: Tensor, written: Tensor) -> bool:
    """Tells whether nothing that is declared speaks against it; outputs are declared poorly."""
    if read.dtype != written.dtype or read.dims == ():
        return False
    if read.dims is None or written.dims is None:
        return True
    return len(read.dims) == len(written.dims) and all(
        one == other or not (isinstance(one, int) and isinstance(other, int))
        for one, other in zip(read.dims, written.dims, strict=True)
    )


def _names_agree(read: Tensor, written: Tensor) -> bool:
    return not _stems(read.name, _BEFORE).isdisjoint(_stems(written.name, _AFTER))


def _shapes_agree(read: Tensor, written: Tensor) -> bool:
    return bool(read.dims) and (read.dtype, read.dims) == (written.dtype, written.dims)


def _stems(name: str, marks: re.Pattern[str]) -> set[str]:
    """A name, and what is left of it without the mark of before or after."""
    name = name.lower()
    stems = (name[: found.start()] + name[found.end() :] for found in marks.finditer(name))
    return {name, *(stem for stem in stems if stem)}
