"""Tensors as columns of a table: how the numbers of one step are named and ordered, read from lines of text and written as such.

A tensor of one number is a column of its name; others have one column per number, in row-major order: `x[0]`, `x[1]`,
`y[0][2]`. Lines are CSV or JSON, each line one step. Knows models, no streams and no server.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, product, repeat
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stepstream import ModelInfo, TensorInfo
from stepstream.cli.options import Misuse, real, whole

Number = float | int
NAMES_SHOWN = 20  # of a header in a message: what a terminal shows
_LARGEST = float(np.finfo(np.float32).max)


def names_of(tensor: TensorInfo) -> list[str]:
    """The columns of one tensor."""
    if prod(tensor.shape) == 1:
        return [tensor.name]
    return [tensor.name + "".join(f"[{i}]" for i in index) for index in product(*map(range, tensor.shape))]


@dataclass(frozen=True, slots=True)
class Column:
    """One number of each step's inputs."""

    name: str
    tensor: TensorInfo

    def parsed(self, text: str) -> Number:
        """A cell as a number that the model accepts. Raises Misuse naming column, expected and actual."""
        try:
            return self.checked(real(text) if self._is_real else whole(text))
        except ValueError:
            raise self._misfit(text) from None

    def checked(self, number: object) -> Number:
        """A number, if the model accepts it. Raises Misuse as `parsed` does."""
        if (isinstance(number, bool) and self.tensor.dtype.kind != "b") or not isinstance(number, (float, int)):
            raise self._misfit(number)
        lowest, highest = self._bounds
        if not lowest <= number <= highest:  # as is the case with nan
            raise self._misfit(number)
        if self._is_real:
            return float(number)
        if number != int(number):
            raise self._misfit(number)
        return int(number)

    @property
    def _is_real(self) -> bool:
        return self.tensor.dtype.kind == "f"

    @property
    def _bounds(self) -> tuple[float, float]:
        """The lowest and the highest number that the model accepts."""
        tensor = self.tensor
        match tensor.dtype.kind:
            case "f":
                return (-(tensor.range or _LARGEST), tensor.range or _LARGEST)
            case "b":
                return (0, 1)
            case _:
                limits = np.iinfo(tensor.dtype)
                return (0, tensor.limit - 1) if tensor.limit else (int(limits.min), int(limits.max))

    def _misfit(self, actual: object) -> Misuse:
        tensor = self.tensor
        if tensor.dtype.kind == "b":
            expected = "0 or 1"
        elif self._is_real:
            expected = f"a number from {-tensor.range:g} to {tensor.range:g}" if tensor.range else "a finite number"
        else:
            expected = f"a whole number >= 0 and < {tensor.limit}" if tensor.limit else f"a whole number of type {tensor.dtype}"
        return Misuse(f"{self.name}: expected {expected}, got {actual!r}")


def input_columns(model: ModelInfo) -> list[Column]:
    """The columns of a step's inputs, in the model's order. Raises Misuse for a model of a dtype that is not known here."""
    if model.unknown:
        raise Misuse(
            f"{model.name}: expected dtypes that this client knows, got others for {', '.join(model.unknown)}: update it"
        )
    return [Column(name, tensor) for tensor in model.inputs for name in names_of(tensor)]


def arrays(model: ModelInfo, steps: Sequence[Sequence[Number]]) -> dict[str, NDArray[Any]]:
    """Steps, each a row of numbers in the order of `input_columns`, as inputs by name: [T, *shape] each."""
    inputs: dict[str, NDArray[Any]] = {}
    first = 0
    for tensor in model.inputs:
        end = first + prod(tensor.shape)
        block = [row[first:end] for row in steps]
        inputs[tensor.name] = np.array(block, tensor.dtype).reshape(len(steps), *tensor.shape)
        first = end
    return inputs


@dataclass(frozen=True, slots=True)
class Chosen:
    """An output, or one number of it, that is wanted."""

    name: str
    tensor: TensorInfo
    position: int | None = None  # of the one number, in row-major order; None: all of them

    @property
    def columns(self) -> list[str]:
        """Its columns."""
        return names_of(self.tensor) if self.position is None else [self.name]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one step's value."""
        return self.tensor.shape if self.position is None else ()

    def numbers(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """[T, *shape] as [T, columns]."""
        flat = outputs.reshape(len(outputs), -1)
        if flat.dtype.kind == "b":
            flat = flat.astype(np.uint8)  # 0 and 1, as inputs have them
        return flat if self.position is None else flat[:, self.position : self.position + 1]


def chosen(model: ModelInfo, wanted: Iterable[str]) -> list[Chosen]:
    """The outputs of these names (`next`, or a number of one, `next[10]`); without any, all. Raises Misuse for others."""
    offered = {tensor.name: Chosen(tensor.name, tensor) for tensor in model.outputs}
    for tensor in model.outputs:
        for position, name in enumerate(names_of(tensor)):
            offered.setdefault(name, Chosen(name, tensor, position))
    names = list(wanted) or [tensor.name for tensor in model.outputs]
    for name in names:
        if name not in offered:
            tensors = ", ".join(tensor.name + "".join(f"[{n}]" for n in tensor.shape) for tensor in model.outputs)
            raise Misuse(f"--outputs: expected names among {tensors}, got {name!r}")
    return [offered[name] for name in names]


# Lines in ------------------------------------------------------------------------------------------------------------


Format = Literal["auto", "csv", "json"]
Row = list[Number]
"""The numbers of one step, in the order of the model's input columns."""


class Reader:
    """Turns lines into rows. What the first line is, a header, numbers or JSON, decides how the others are read."""

    def __init__(self, model: ModelInfo, form: Format = "auto", names: Sequence[str] = ()) -> None:
        self._model = model
        self._columns = input_columns(model)
        self._form = form
        self._names = list(names)
        self._parse: Callable[[str], Row] | None = None

    @property
    def begun(self) -> bool:
        """Whether the first line has been understood."""
        return self._parse is not None

    def row(self, line: str) -> Row | None:
        """The line's numbers; None for a header or an empty line. Raises Misuse naming column, expected and actual."""
        if not line or line.isspace():
            return None
        if self._parse is not None:
            return self._parse(line)
        if self._form == "json" or (self._form == "auto" and line.lstrip()[0] in "{["):
            self._parse = JsonLines(self._model, self._columns).row
            return self._parse(line)
        cells = split(line)
        is_header = not all(map(_is_number, cells))
        names = self._names or (cells if is_header else [])
        self._parse = Table(self._columns, names, len(cells)).row
        return None if is_header else self._parse(line)


class Table:
    """Rows of CSV. Columns are found by the names of the model's inputs; without names, they must be just those."""

    def __init__(self, columns: Sequence[Column], names: Sequence[str], width: int) -> None:
        self._width = width
        expected = ",".join(column.name for column in columns)
        if names:
            if len(names) != width:
                raise Misuse(f"--columns: expected {width} names, as many as there are columns, got {len(names)}")
            self._picked = _picked(columns, names)
        elif width == len(columns):
            self._picked = [(column, place) for place, column in enumerate(columns)]
        else:
            raise Misuse(f"expected {len(columns)} columns ({expected}) or a header, got {width} columns; --columns names them")

    def row(self, line: str) -> Row:
        """One step."""
        cells = split(line)
        if len(cells) != self._width:
            raise Misuse(f"expected {self._width} columns, got {len(cells)}")
        return [column.parsed(cells[place]) for column, place in self._picked]


class JsonLines:
    """Objects of inputs by name (others are passed over), or the bare value for a model with one input."""

    def __init__(self, model: ModelInfo, columns: Sequence[Column]) -> None:
        self._inputs = model.inputs
        self._columns = columns

    def row(self, line: str) -> Row:
        """One step."""
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Misuse(f"expected JSON, got {line[:40]!r}: {error}") from None
        if not isinstance(value, dict):
            if len(self._inputs) != 1:
                names = ", ".join(tensor.name for tensor in self._inputs)
                raise Misuse(f"expected an object with {names}, got {line[:40]!r}")
            value = {self._inputs[0].name: value}
        numbers: list[object] = []
        for tensor in self._inputs:
            if tensor.name not in value:
                raise Misuse(f"expected an object with {tensor.name!r}, got one with {', '.join(map(repr, value)) or 'nothing'}")
            given = value[tensor.name]
            if tensor.shape == (1,) and not isinstance(given, list):
                given = [given]  # the brackets around a single number may be left out
            _flatten(given, tensor.shape, tensor.name, numbers)
        return [column.checked(number) for column, number in zip(self._columns, numbers, strict=True)]


def numbered_row(reader: Reader, number: int, line: bytes) -> Row | None:
    """The numbers of a line, of which the first has number 1. Raises Misuse with its number."""
    try:
        return reader.row(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (Misuse, UnicodeDecodeError) as error:
        raise Misuse(f"line {number}: {error}") from None


def split(line: str) -> list[str]:
    """The cells of a line of CSV."""
    if '"' not in line:
        return [cell.strip() for cell in line.split(",")]
    try:
        return [cell.strip() for cell in next(csv.reader([line], strict=True))]
    except csv.Error as error:
        raise Misuse(f"expected CSV, got {line[:40]!r}: {error}") from None


def _is_number(cell: str) -> bool:
    try:
        real(cell)
    except ValueError:
        return False
    return True


def _picked(columns: Iterable[Column], names: Sequence[str]) -> list[tuple[Column, int]]:
    """Each column, and where among the names its own stands."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    picked = []
    for column in columns:
        found = places.get(column.name, [])
        if len(found) != 1:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            raise Misuse(
                f"{column.name}: expected one column of that name, got {'several' if found else 'none'}"
                f" among {','.join(names[:NAMES_SHOWN])}{more}; --columns gives other names"
            )
        picked.append((column, found[0]))
    return picked


def _flatten(value: Any, shape: tuple[int, ...], name: str, numbers: list[object]) -> None:
    if not shape:
        numbers.append(value)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        got = f"{len(value)}" if isinstance(value, list) else repr(value)
        raise Misuse(f"{name}: expected a list of {shape[0]}, got {got}")
    for each in value:
        _flatten(each, shape[1:], name, numbers)


# Lines out -----------------------------------------------------------------------------------------------------------


class Lines:
    """A line is a template that the step's number and its outputs' numbers fill. tokens: the name of the step's token, too."""

    def __init__(self, outputs: Sequence[Chosen], *, as_json: bool, tokens: bool = False) -> None:
        self._outputs = outputs
        self._quoted = json.dumps if as_json else _cell
        self._first = ["seq", "token"] if tokens else ["seq"]
        self._template = _json_template(outputs, self._first) if as_json else _csv_template(outputs, self._first)

    @property
    def header(self) -> str:
        """The first line of CSV."""
        return ",".join([*self._first, *(column for output in self._outputs for column in output.columns)]) + "\n"

    def text(self, first_seq: int, outputs: Mapping[str, NDArray[Any]], tokens: Sequence[str] | None = None) -> str:
        """Lines for the steps from `first_seq` on. outputs: [T, *shape] by name. tokens: names of those of T or more steps."""
        blocks = [each.numbers(outputs[each.tensor.name]) for each in self._outputs]  # [T, columns]
        names = [(self._quoted(token),) for token in tokens] if tokens is not None else repeat(())
        steps = zip(count(first_seq), names, zip(*blocks, strict=True), strict=False)
        return "".join(self._template % (seq, *name, *map(str, chain.from_iterable(rows))) for seq, name, rows in steps)


def _cell(text: str) -> str:
    """A cell of CSV."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text


def _csv_template(outputs: Sequence[Chosen], first: Sequence[str]) -> str:
    return ",".join(["%s"] * (len(first) + sum(len(each.columns) for each in outputs))) + "\n"


def _json_template(outputs: Sequence[Chosen], first: Sequence[str]) -> str:
    fields = (f"{json.dumps(each.name).replace('%', '%%')}: {_nested(each.shape)}" for each in outputs)
    before = "".join(f'"{name}": %s, ' for name in first)
    return f'{{{before}"outputs": {{{", ".join(fields)}}}}}\n'


def _nested(shape: tuple[int, ...]) -> str:
    if prod(shape) == 0:
        return "[]"
    return f"[{', '.join([_nested(shape[1:])] * shape[0])}]" if shape else "%s"
