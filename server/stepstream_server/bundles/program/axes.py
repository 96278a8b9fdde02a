"""Finds out along which axes of a graph's tensors sessions lie, by running it as it came with two and with three of them.

What files declare does not tell: outputs without shapes, a batch fixed at 1, sizes without names.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from stepstream_server.bundles.program.pairs import Pair, Tensor
from stepstream_server.errors import BundleError
from stepstream_server.programs import runtime, walk

SIZES = (2, 3)  # of the batches that are compared: neither is 1, which also means a fixed size
# Sizes to try where a file names none: one step, and frames and channels as people choose them. Those of weights come first.
WIDTHS = (1, 2, 4, 8, 10, 16, 20, 32, 40, 64, 80, 128, 160, 240, 256, 320, 480, 512, 576, 640, 960, 1024, 1280, 1536)
MOST_RUNS = 1000  # of a graph: some seconds
_BATCHES = {"n", "b", "bs", "batch", "batchsize", "batch_size"}  # how files call the axis of sessions

Array = NDArray[Any]
Shape = tuple[int, ...]


class Place(NamedTuple):
    """A tensor's batch axis, and its shape beside that axis."""

    shape: Shape
    batch_axis: int


class Found(NamedTuple):
    """Findings of the runs, by the names of tensors."""

    places: dict[str, Place]  # of inputs and states as they are read
    outputs: dict[str, Place]  # of what changes with the batch
    width: int  # that was taken for each size which the file does not say; 0: it says all of them
    other_widths: list[int]  # that the graph takes as well


class RawGraph:
    """A graph as it came, but for declared shapes: some of them hold for one session only."""

    def __init__(self, model: onnx.ModelProto, constants: Mapping[str, Array], dtypes: Mapping[str, str]) -> None:
        """constants: values of inputs that have one for ever; dtypes: of all others. Raises BundleError for a graph that the
        runtime refuses."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        walk.forget_shapes(copy.graph)
        self._session = runtime.made(copy.SerializeToString(), runtime.quiet_options())
        self._constants = constants
        self._dtypes = dtypes
        self.widths = sorted(_widths_of_weights(model)) + [width for width in WIDTHS if width not in _widths_of_weights(model)]
        self.why = ""  # the last run failed, in the runtime's words

    def run(self, shapes: Mapping[str, Shape]) -> dict[str, Shape] | None:
        """The shapes of all outputs for inputs of zeros; None if the graph does not take them."""
        feeds = {name: np.zeros(shape, self._dtypes[name]) for name, shape in shapes.items()}
        try:
            results = self._session.run(None, {**feeds, **self._constants})
        except Exception as error:  # the runtime's exceptions have no common type
            self.why = runtime.first_line(error)
            return None
        return {each.name: np.shape(value) for each, value in zip(self._session.get_outputs(), results, strict=True)}


def find(graph: RawGraph, inputs: Sequence[Tensor], states: Sequence[Pair]) -> Found:
    """The first batch axes and sizes with which the graph computes two sessions and three, and writes states as it reads them.

    Raises BundleError if there are none.
    """
    tensors = [*inputs, *(each.read for each in states)]
    for tensor in tensors:
        if tensor.dims is None:
            raise BundleError(f"{tensor.name!r}: expected an input that declares its axes, got one of any shape")
    for axes, width in itertools.islice(_guesses(tensors, graph.widths), MOST_RUNS):
        found = _try(graph, tensors, states, axes, width)
        if found is not None:
            others = [each for each in WIDTHS if width and each != width and _try(graph, tensors, states, axes, each)]
            return found._replace(other_widths=others)
    names = ", ".join(f"{tensor.name} {list(tensor.dims or ())}" for tensor in tensors)
    raise BundleError(
        f"no axis of {names} was found along which {SIZES[0]} and {SIZES[1]} sessions can lie and states are written as they are "
        f"read; one of them may be time. The last try failed with: {graph.why or 'other shapes of states'}"
    )


def _guesses(tensors: Sequence[Tensor], widths: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Batch axes, one per tensor, and a size for whatever has none; the likely ones first."""
    for axes in itertools.product(*(_likely_axes(tensor) for tensor in tensors)):
        unknown = any(
            isinstance(size, str) and index != axis
            for tensor, axis in zip(tensors, axes, strict=True)
            for index, size in enumerate(tensor.dims or ())
        )
        yield from ((axes, width) for width in (widths if unknown else [0]))


def _likely_axes(tensor: Tensor) -> list[int]:
    """Axes that may be the batch's: those that say so, then those without a fixed size, then those fixed at 1."""
    dims = tensor.dims or ()
    named = [axis for axis, size in enumerate(dims) if isinstance(size, str) and size.lower() in _BATCHES]
    free = [axis for axis, size in enumerate(dims) if isinstance(size, str) and axis not in named]
    return [*named, *free, *(axis for axis, size in enumerate(dims) if size == 1)]


def _try(graph: RawGraph, tensors: Sequence[Tensor], states: Sequence[Pair], axes: Sequence[int], width: int) -> Found | None:
    places = {tensor.name: _place(tensor, axis, width) for tensor, axis in zip(tensors, axes, strict=True)}
    runs = []
    for rows in SIZES:
        shapes = {name: _with_batch(place, rows) for name, place in places.items()}
        results = graph.run(shapes)
        if results is None or any(results[each.written.name] != shapes[each.read.name] for each in states):
            return None
        runs.append(results)
    return Found(places, dict(_outputs(*runs)), width, [])


def _place(tensor: Tensor, axis: int, width: int) -> Place:
    dims = tensor.dims or ()
    return Place(tuple(size if isinstance(size, int) else width for at, size in enumerate(dims) if at != axis), axis)


def _with_batch(place: Place, rows: int) -> Shape:
    return (*place.shape[: place.batch_axis], rows, *place.shape[place.batch_axis :])


def _outputs(two: Mapping[str, Shape], three: Mapping[str, Shape]) -> Iterator[tuple[str, Place]]:
    """Outputs of which one axis, and nothing else, changes with the batch."""
    for name, shape in two.items():
        other = three[name]
        changed = [axis for axis, sizes in enumerate(zip(shape, other, strict=False)) if sizes[0] != sizes[1]]
        if len(shape) == len(other) and len(changed) == 1 and (shape[changed[0]], other[changed[0]]) == SIZES:
            axis = changed[0]
            yield name, Place(shape[:axis] + shape[axis + 1 :], axis)


def _widths_of_weights(model: onnx.ModelProto) -> set[int]:
    """The sizes of a graph's weights: what multiplies a matrix is as wide as it."""
    return {size for each in walk.tensors(model) for size in each.dims if 1 < size <= 4096 and len(each.dims) > 1}
