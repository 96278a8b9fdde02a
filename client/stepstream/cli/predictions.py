"""Outputs as lines of text: CSV or JSON lines, each line one step.

Numbers are as short as tells them apart: read back as float32 they are the same to the bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any

from numpy.typing import NDArray

from stepstream.cli.columns import Chosen


class Lines:
    """A line is a template that the step's number and its outputs' numbers fill."""

    def __init__(self, outputs: Sequence[Chosen], *, as_json: bool) -> None:
        self._outputs = outputs
        self._template = _json_template(outputs) if as_json else _csv_template(outputs)

    @property
    def header(self) -> str:
        """The first line of CSV."""
        return ",".join(["seq", *(column for output in self._outputs for column in output.columns)]) + "\n"

    def text(self, first_seq: int, outputs: Mapping[str, NDArray[Any]]) -> str:
        """Lines for the steps from `first_seq` on. outputs: [T, *shape] by name."""
        blocks = [each.numbers(outputs[each.tensor.name]) for each in self._outputs]  # [T, columns]
        steps = enumerate(zip(*blocks, strict=True), first_seq)
        return "".join(self._template % (seq, *map(str, chain.from_iterable(rows))) for seq, rows in steps)


def _csv_template(outputs: Sequence[Chosen]) -> str:
    return ",".join(["%d"] + ["%s"] * sum(len(each.columns) for each in outputs)) + "\n"


def _json_template(outputs: Sequence[Chosen]) -> str:
    fields = (f"{json.dumps(each.name).replace('%', '%%')}: {_nested(each.shape)}" for each in outputs)
    return f'{{"seq": %d, "outputs": {{{", ".join(fields)}}}}}\n'


def _nested(shape: tuple[int, ...]) -> str:
    if prod(shape) == 0:
        return "[]"
    return f"[{', '.join([_nested(shape[1:])] * shape[0])}]" if shape else "%s"
