"""One stream, from its first message to its end: one task that reads and one that writes. Knows nothing of what is said."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import grpc

from stepstream._errors import StepStreamError
from stepstream._outbox import Outbox
from stepstream._status import Status, StreamCall, defect
from stepstream_proto.v1 import inference_pb2 as pb


class Wire:
    """Writes what is put into the outbox, and has what the server says heeded. `changed` is set with everything new to write."""

    def __init__(
        self, call: StreamCall, outbox: Outbox, changed: asyncio.Event, heed: Callable[[pb.StreamResponse], None]
    ) -> None:
        self._call = call
        self._outbox = outbox
        self._changed = changed
        self._heed = heed
        self._finishing = False
        self.heard = False  # anything from the server

    async def run(self) -> StepStreamError:
        """Reads and writes until the stream ends. Returns why it did."""
        status = Status(self._call)
        writer = asyncio.create_task(self._write(), name="stepstream writer")
        try:
            return await self._read(status)
        except Exception as error:  # a defect on either side must not leave callers waiting
            return error if isinstance(error, StepStreamError) else defect(error)
        finally:
            self._call.cancel()
            writer.cancel()
            await asyncio.wait([writer])

    def finish(self) -> None:
        """Writes what there is and no more, upon which the server ends the stream in peace."""
        self._finishing = True
        self._changed.set()

    async def _read(self, status: Status) -> StepStreamError:
        with suppress(grpc.aio.AioRpcError):
            async for response in self._call:
                self.heard = True
                self._heed(response)
        return await status.reason()

    async def _write(self) -> None:
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                while (message := self._outbox.pop()) is not None:
                    await self._call.write(message)
                if self._finishing:
                    await self._call.done_writing()
                    return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream is over; reading it tells why
