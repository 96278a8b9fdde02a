"""A connection as a stranger has it: bytes are written, and something may come back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from benchmarks.http2 import END_STREAM, FRAME, GOAWAY, HEADERS, RST_STREAM
from support.workers import PATIENCE


async def write_to(address: tuple[str, int], data: bytes) -> None:
    """Writes, half-closes, and returns once the server has let the connection go. Raises TimeoutError."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(PATIENCE):
            with suppress(OSError):  # it has let go already
                writer.write(data)
                await writer.drain()
                writer.write_eof()
                while await reader.read(1 << 16):
                    pass
    finally:
        writer.transport.abort()


async def ask(address: tuple[str, int], data: bytes) -> None:
    """Writes calls over HTTP/2, and returns once one of them has ended, or the connection. Raises TimeoutError."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(PATIENCE):
            with suppress(OSError, asyncio.IncompleteReadError):  # the connection has ended
                writer.write(data)
                await _ended(reader)
    finally:
        writer.transport.abort()


async def _ended(reader: asyncio.StreamReader) -> None:
    """Reads frames until one ends a call or the connection."""
    while True:
        begin = await reader.readexactly(FRAME.size)
        await reader.readexactly(int.from_bytes(begin[:3]))
        kind, flags = begin[3], begin[4]
        if kind in (RST_STREAM, GOAWAY) or (kind == HEADERS and flags & END_STREAM):
            return
