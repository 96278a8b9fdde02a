"""Arrivals: the rows that neighbouring commands bring, as one structured array, so that a turn admits them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.backlog import ROW, Rows
from stepstream_server.engine.ports import Block, Call, Ints, Tensor


def join(commands: Sequence[tuple[int, Block]] | Sequence[tuple[int, Call]]) -> tuple[Rows, tuple[Tensor, ...]]:
    """Rows of all commands, each with its engine-wide stream, and their inputs as one array per declared input.

    Left to the caller: sessions and first numbers, and whether answers are kept.
    """
    only = [command for _, command in commands]
    counts = [len(command.lengths) for command in only]
    rows = np.zeros(sum(counts), ROW)
    rows["length"] = lengths = concatenate([command.lengths for command in only])
    rows["offset"] = np.cumsum(lengths) - lengths
    rows["tag"] = concatenate([command.tags for command in only])
    rows["stream"] = _spread([stream for stream, _ in commands], counts)
    rows["keep"] = _spread([int(command.keep) for command in only], counts)
    rows["arrival"] = _spread([command.arrival for command in only], counts)
    rows["deadline"] = _spread([command.deadline for command in only], counts)
    inputs = tuple(concatenate(parts) for parts in zip(*(command.inputs for command in only), strict=True))
    return rows, inputs


def sums_before(sessions: Ints, values: Ints, order: Ints) -> Ints:
    """For each entry, the sum of `values` over its session's entries before it: [n]. order: entries by session, stable."""
    sorted_values = values[order]
    before = np.cumsum(sorted_values) - sorted_values
    starts = np.flatnonzero(np.diff(sessions[order], prepend=-1))
    within = before - np.repeat(before[starts], np.diff(starts, append=len(order)))
    sums = np.empty_like(within)
    sums[order] = within
    return sums


def concatenate(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The parts as one array; no copy of a single one."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _spread(values: Sequence[float], counts: Sequence[int]) -> float | NDArray[Any]:
    """Each command's value for each of its rows."""
    return values[0] if len(values) == 1 else np.repeat(values, counts)
