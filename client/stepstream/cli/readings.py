"""Lines of text as inputs: CSV with or without a header, or JSON lines, each line one step. Knows no streams and no server."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

from stepstream import ModelInfo
from stepstream.cli.columns import Column, Number, input_columns
from stepstream.cli.faults import Misuse

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
            self._picked = [(column, _place(column.name, names)) for column in columns]
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
        float(cell)
    except ValueError:
        return False
    return True


def _place(name: str, names: Sequence[str]) -> int:
    if names.count(name) != 1:
        found = "none" if name not in names else "several"
        raise Misuse(
            f"{name}: expected one column of that name, got {found} among {','.join(names)}; --columns gives other names"
        )
    return names.index(name)


def _flatten(value: Any, shape: tuple[int, ...], name: str, numbers: list[object]) -> None:
    if not shape:
        numbers.append(value)
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        got = f"{len(value)}" if isinstance(value, list) else repr(value)
        raise Misuse(f"{name}: expected a list of {shape[0]}, got {got}")
    for each in value:
        _flatten(each, shape[1:], name, numbers)
