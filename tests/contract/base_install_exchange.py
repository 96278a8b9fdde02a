"""A whole exchange with a server through the public client; prints every output to the last bit. argv: address, model.

Run as a script by the interpreter of a base install, and by that of a full one: both must print the same.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import stepstream

STEPS = 20
FEATURES = 3  # of the model's input


def readings() -> NDArray[np.float32]:
    """[STEPS, FEATURES], the same at every run."""
    return np.sin(np.arange(STEPS * FEATURES, dtype=np.float32)).reshape(STEPS, FEATURES)


async def exchange(address: str, model: str) -> Iterator[stepstream.Outputs]:
    """Every way in which a client steps sessions, one after another."""
    answers: list[stepstream.Outputs] = []
    async with stepstream.Client(address) as client:
        async with client.open_session(model) as session:
            answers += [await session.step(reading) for reading in readings()]
            await session.reset()
            answers.append(await session.chunk(readings()))
            answers += [answer async for answer in session.stream(readings())]
        async with client.open_sessions(model, 4) as group:
            answers.append(await group.step(readings()[:4]))
    return iter(answers)


def main() -> None:
    """Prints one line per answer: the outputs' names, shapes and bytes."""
    for answer in asyncio.run(exchange(sys.argv[1], sys.argv[2])):
        print(*(f"{name}{list(array.shape)}={array.tobytes().hex()}" for name, array in answer.items()))


if __name__ == "__main__":
    main()
