"""Array operations on the rows that neighbouring commands bring, which a turn admits together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import Block, Call, Ints, Tensor

NumberedBlocks = list[tuple[int, Block]]  # each with the number of its door


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


def joined_inputs(commands: Sequence[tuple[int, Block | Call]]) -> tuple[Tensor, ...]:
    """The inputs of all commands behind each other: one [sum of lengths, *shape] per declared input."""
    return tuple(concatenate(parts) for parts in zip(*(command.inputs for _, command in commands), strict=True))
