"""What the native API answers to the same inputs, to compare the other protocol's answers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from stepstream import Client, Outputs
from support.oip.triton import Answer, Array


async def steps(client: Client, model: str, values: Sequence[float | list[float]], version: int | None = None) -> list[Outputs]:
    """Outputs of a session of its own, step by step."""
    async with client.open_session(model, version=version) as session:
        return [await session.step(np.reshape(value, session.model.inputs[0].shape)) for value in values]


def same_bits(answers: Sequence[Answer], expected: Sequence[Outputs]) -> None:
    """Fails unless each answer, of one step of one sequence, is to the bit what it was natively."""
    assert [answer.error for answer in answers] == [""] * len(expected)
    for answer, outputs in zip(answers, expected, strict=True):
        same_tensors(answer.outputs, {name: array[np.newaxis] for name, array in outputs.items()})


def same_tensors(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Fails unless names, shapes, types and bits are the same."""
    assert list(outputs) == list(expected)
    for name, array in expected.items():
        got = outputs[name]
        assert (got.shape, got.dtype, got.tobytes()) == (array.shape, array.dtype, array.tobytes()), name
