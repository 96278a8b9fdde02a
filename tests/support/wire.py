"""The contract spoken raw: blocks exactly as a test wants them, with nothing of the client library in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc
from support.planted import plant

StreamRequest = inference_pb2.StreamRequest


class WireStream:
    """One bidirectional stream. `send` writes, `receive` reads the next message."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = inference_pb2_grpc.InferenceServiceStub(channel).Stream()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._call.cancel()

    def cut(self) -> None:
        """Breaks the stream as a lost connection does: without half-closing it."""
        self._call.cancel()

    async def half_close(self) -> None:
        """Nothing more will be sent."""
        await self._call.done_writing()

    async def send(self, request: StreamRequest) -> None:
        await self._call.write(request)

    async def receive(self) -> inference_pb2.StreamResponse:
        message: Any = await self._call.read()
        if message is grpc.aio.EOF:
            raise EOFError(f"the stream ended: {await self._call.code()} {await self._call.details()}")
        response: inference_pb2.StreamResponse = message
        return response

    async def messages(self) -> AsyncIterator[inference_pb2.StreamResponse]:
        while True:
            yield await self.receive()

    async def open(self, model: str, handles: Sequence[int]) -> list[inference_pb2.AttachedSession]:
        """Opens sessions under these handles and waits for them."""
        await self.send(StreamRequest(open=inference_pb2.OpenOnStream(model=model, handles=u32(handles))))
        opened = list((await self.receive()).attached.sessions)
        for each in opened:
            plant(each.secret)
        return opened

    async def attach(self, model: str, handle: int, session_id: str, secret: bytes, acked: int = 0) -> inference_pb2.Attached:
        one = inference_pb2.AttachSession(handle=handle, id=session_id, secret=secret, acked=acked)
        await self.send(StreamRequest(attach=inference_pb2.Attach(model=model, sessions=[one])))
        return (await self.receive()).attached


async def read_to_drain(stream: WireStream) -> list[inference_pb2.StreamResponse]:
    """Every message up to the one which says that the server is about to stop; then nothing more is sent."""
    messages = [await stream.receive()]
    while not messages[-1].HasField("drain"):
        messages.append(await stream.receive())
    await stream.half_close()
    return messages


async def read_to_end(stream: WireStream) -> tuple[list[inference_pb2.StreamResponse], str]:
    """Every message that is left, and how the stream ended."""
    messages = []
    try:
        async for message in stream.messages():
            messages.append(message)
    except (EOFError, grpc.aio.AioRpcError) as end:
        return messages, str(end)
    raise AssertionError("a stream's messages never end without an exception")


def block(
    handles: Sequence[int], first_seqs: Sequence[int], lengths: Sequence[int], inputs: NDArray[np.generic]
) -> StreamRequest:
    """A block of one input [sum(lengths), *shape]."""
    return StreamRequest(
        block=inference_pb2.Block(
            handles=u32(handles), first_seqs=u64(first_seqs), lengths=u32(lengths), inputs=[inputs.tobytes()]
        )
    )


def steps_of(answers: inference_pb2.Answers) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Handle and number of each answered step, in the order of its outputs (where all are kept): two [steps]."""
    handles = np.frombuffer(answers.handles, "<u4").astype(np.int64)
    firsts = np.frombuffer(answers.first_seqs, "<u8").astype(np.int64)
    lengths = np.frombuffer(answers.lengths, "<u4").astype(np.int64) if answers.lengths else np.ones_like(handles)
    starts = np.cumsum(lengths) - lengths
    return np.repeat(handles, lengths), np.arange(lengths.sum()) - np.repeat(starts - firsts, lengths)


def u32(numbers: Sequence[int]) -> bytes:
    """A column of handles or lengths."""
    return np.asarray(numbers, "<u4").tobytes()


def u64(numbers: Sequence[int]) -> bytes:
    """A column of step numbers or counts."""
    return np.asarray(numbers, "<u8").tobytes()
