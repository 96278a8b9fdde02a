"""A client in a process of its own that opens sessions, steps them once, says so, and holds them until it is killed."""

from __future__ import annotations

import asyncio
import sys

import grpc
import numpy as np

from support.wire import WireStream, block


async def hold(address: str, model: str, count: int) -> None:
    """Prints id and secret of each session, one a line, once all have made a step."""
    async with grpc.aio.insecure_channel(address) as channel, WireStream(channel) as stream:
        sessions = await stream.open(model, range(count))
        await stream.send(block(range(count), [0] * count, [1] * count, np.ones((count, 1), np.float32)))
        await stream.receive()
        for session in sessions:
            print(session.id, session.secret.hex(), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(hold(sys.argv[1], sys.argv[2], int(sys.argv[3])))
