"""The line between the main process and a worker for what is said now and then: messages of `control`, awaited."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from stepstream_server.ipc.codec import decode, encode

_LENGTH_BYTES = 4


class Channel:
    """Both directions of one socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, line: socket.socket) -> Channel:
        """Takes the socket over."""
        return cls(*await asyncio.open_unix_connection(sock=line))

    def tell(self, message: object) -> None:
        """Sends a message, soon. Where the other side has ended, `hear` tells."""
        frame = encode(message)
        if not self._writer.is_closing():  # uvloop would raise an error
            self._writer.write(len(frame).to_bytes(_LENGTH_BYTES, "little") + frame)

    async def hear(self) -> Any:
        """The next message. Raises EOFError once the other side has ended."""
        try:
            size = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "little")
            return decode(await self._reader.readexactly(size))
        except OSError as error:
            raise EOFError from error

    def close(self) -> None:
        self._writer.close()
