"""The bare echo: what gRPC in Python costs when nothing is served.

The same contract, messages, event loop and options as the server's, in one process or in several. It parses every block and
serialises real Answers with the handles and numbers of its rows and outputs of the right size; it computes nothing and keeps
nothing.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import grpc

from benchmarks import bare
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, session_pb2, session_pb2_grpc

_ID, _SECRET = "0" * 32, bytes(16)  # as long as the server's

Context = grpc.aio.ServicerContext[Any, Any]


class Echo(inference_pb2_grpc.InferenceServiceServicer):
    """Answers blocks with zeros, `input_bytes` of input and `output_bytes` of output per step."""

    def __init__(self, input_bytes: int, output_bytes: int) -> None:
        self._input_bytes = input_bytes
        self._output_bytes = output_bytes

    async def Stream(self, request_iterator: object, context: Context) -> None:
        """Reads and writes itself: an iterator of requests and a generator of responses cost 6 % more per message."""
        await context.send_initial_metadata(())
        while (request := await context.read()) is not grpc.aio.EOF:
            if request.WhichOneof("message") == "block":
                await context.write(self._answer(request.block))
            else:
                await context.write(confirm(request))

    def _answer(self, block: inference_pb2.Block) -> inference_pb2.StreamResponse:
        steps = len(block.inputs[0]) // self._input_bytes
        response = inference_pb2.StreamResponse()
        answers = response.answers
        answers.handles = block.handles
        answers.first_seqs = block.first_seqs
        if block.lengths:
            answers.lengths = block.lengths
        answers.outputs.append(bytes(steps * self._output_bytes))
        return response


class SessionEcho(session_pb2_grpc.SessionServiceServicer):
    """Opens and closes nothing."""

    async def OpenSession(self, request: session_pb2.OpenSessionRequest, context: Context) -> session_pb2.OpenSessionResponse:
        session = session_pb2.Session(model=request.model, version=1, id=_ID, status=session_pb2.SESSION_STATUS_OPEN)
        return session_pb2.OpenSessionResponse(session=session, secret=_SECRET)

    async def CloseSession(self, request: session_pb2.CloseSessionRequest, context: Context) -> session_pb2.CloseSessionResponse:
        return session_pb2.CloseSessionResponse(next_seq=0)


def confirm(request: inference_pb2.StreamRequest) -> inference_pb2.StreamResponse:
    """Opening and letting go, which are not measured."""
    if request.HasField("detach"):
        return inference_pb2.StreamResponse(detached=inference_pb2.Detached(handles=request.detach.handles))
    handles = memoryview(request.open.handles).cast("I")
    sessions = [inference_pb2.AttachedSession(handle=handle, id=_ID, secret=_SECRET) for handle in handles]
    return inference_pb2.StreamResponse(attached=inference_pb2.Attached(model=request.open.model, sessions=sessions))


def register(servicer: inference_pb2_grpc.InferenceServiceServicer, server: grpc.aio.Server) -> None:
    """A bare servicer, beside sessions that are none."""
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    session_pb2_grpc.add_SessionServiceServicer_to_server(SessionEcho(), server)


def main() -> None:
    """`python -m benchmarks.echo --input-bytes 64 --output-bytes 4`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--input-bytes", type=int, required=True)
    parser.add_argument("--output-bytes", type=int, required=True)
    bare.add_flags(parser)
    arguments = parser.parse_args()
    echo = Echo(arguments.input_bytes, arguments.output_bytes)
    bare.serve(partial(register, echo), arguments.processes, arguments.port)


if __name__ == "__main__":
    main()
