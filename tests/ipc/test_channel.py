"""The line for what is said now and then: either side may end at any moment."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from stepstream_server.ipc.channel import Channel
from stepstream_server.ipc.control import Count


async def told_to_nobody(closed: bool) -> None:
    """Speaks to a side that has ended, until hearing tells so."""
    mine, other = socket.socketpair()
    channel = await Channel.over(mine)
    other.close()
    if closed:
        channel.close()
    for _ in range(3):
        channel.tell(Count())
        await asyncio.sleep(0)
    with pytest.raises(EOFError):
        await channel.hear()
    channel.close()
    channel.tell(Count())


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("closed", [False, True])
def test_what_is_told_to_nobody_is_lost(loop: Callable[[], asyncio.AbstractEventLoop], closed: bool) -> None:
    """On either event loop, and on this side too once it is closed; who hears is told, not who speaks."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(told_to_nobody(closed))
