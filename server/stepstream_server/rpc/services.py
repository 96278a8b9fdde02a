"""The services of `stepstream.v1`: convert, delegate, convert back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, NoReturn, TypeAlias

import grpc

from stepstream_proto.v1 import (
    inference_pb2,
    inference_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)
from stepstream_server.config import DoorSettings
from stepstream_server.engine import ports
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc import columns, convert, values
from stepstream_server.rpc.call import MomentaryCall
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.streams import Streams

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # generic in its stub only


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Advances sessions."""

    def __init__(self, models: Models, streams: Streams, settings: DoorSettings) -> None:
        self._models = models
        self._streams = streams
        self._settings = settings

    async def Stream(
        self, request_iterator: AsyncIterator[inference_pb2.StreamRequest], context: Context
    ) -> AsyncIterator[inference_pb2.StreamResponse]:
        stream = self._streams.open()
        context.add_done_callback(lambda _: self._streams.close(stream))  # type: ignore[arg-type]  # its stub is no Protocol
        await context.send_initial_metadata(())  # commits the call, so that nothing in between replays what was sent
        async for response in stream.responses(request_iterator):
            yield response

    async def Step(self, request: inference_pb2.StepRequest, context: Context) -> inference_pb2.StepResponse:
        arrival = time.monotonic()
        door = self._models.find(request.model, request.version)
        steps, inputs = values.decode_values(request.inputs, door.spec)
        columns.check_steps("inputs", steps, self._settings.max_block_steps)
        left = context.time_remaining()
        call = ports.Call(
            stream=self._models.next_stream(),
            id=convert.check_id("session_id", request.session_id),
            secret=request.secret,
            seq=columns.check_seq("seq", request.seq) if request.HasField("seq") else ports.NO_SEQ,
            length=steps,
            inputs=inputs,
            keep=columns.decode_keep(request.outputs),
            arrival=arrival,
            deadline=arrival + (self._settings.step_timeout_seconds if left is None else left),
        )
        outcomes = MomentaryCall(steps)
        await outcomes.complete(door, call)
        return inference_pb2.StepResponse(
            seq=outcomes.seq,
            next_seq=outcomes.seq + steps,
            outputs=values.encode_values(outcomes.outputs(), door.spec),
        )

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        _not_implemented("Generate")
        yield inference_pb2.GenerateResponse()


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """Sessions as things of their own."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def OpenSession(self, request: session_pb2.OpenSessionRequest, context: Context) -> session_pb2.OpenSessionResponse:
        door = self._models.find(request.model, request.version)
        ids = convert.decode_ids([request.id] if request.id else [], 1)
        idle_ttl = convert.decode_idle_ttl(request)
        (opened,) = await door.ask(lambda number: ports.Open(ports.NO_STREAM, number, ids, idle_ttl=idle_ttl))
        if isinstance(opened, StepStreamError):
            raise opened
        info = await door.ask(lambda number: ports.Get(number, opened.id))
        return session_pb2.OpenSessionResponse(session=convert.encode_session(door, info), secret=opened.secret)

    async def OpenSessions(self, request: session_pb2.OpenSessionsRequest, context: Context) -> session_pb2.OpenSessionsResponse:
        door = self._models.find(request.model, request.version)
        ids = convert.decode_ids(request.ids, request.count)
        idle_ttl = convert.decode_idle_ttl(request)
        results = await door.ask(lambda number: ports.Open(ports.NO_STREAM, number, ids, idle_ttl=idle_ttl))
        return session_pb2.OpenSessionsResponse(sessions=convert.encode_opened(results))

    async def GetSession(self, request: session_pb2.GetSessionRequest, context: Context) -> session_pb2.GetSessionResponse:
        door = self._models.find(request.model, request.version)
        id = convert.check_id("id", request.id)
        info = await door.ask(lambda number: ports.Get(number, id))
        return session_pb2.GetSessionResponse(session=convert.encode_session(door, info))

    async def CloseSession(self, request: session_pb2.CloseSessionRequest, context: Context) -> session_pb2.CloseSessionResponse:
        door = self._models.find(request.model, request.version)
        id = convert.check_id("id", request.id)
        next_seq = await door.ask(lambda number: ports.Close(number, id, request.secret))
        return session_pb2.CloseSessionResponse(next_seq=next_seq)

    async def ListSessions(self, request: session_pb2.ListSessionsRequest, context: Context) -> session_pb2.ListSessionsResponse:
        _not_implemented("ListSessions")

    async def ForkSession(self, request: session_pb2.ForkSessionRequest, context: Context) -> session_pb2.ForkSessionResponse:
        _not_implemented("ForkSession")

    async def ExportSession(
        self, request: session_pb2.ExportSessionRequest, context: Context
    ) -> session_pb2.ExportSessionResponse:
        _not_implemented("ExportSession")

    async def ImportSession(
        self, request: session_pb2.ImportSessionRequest, context: Context
    ) -> session_pb2.ImportSessionResponse:
        _not_implemented("ImportSession")


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """What is served."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def ListModels(self, request: model_pb2.ListModelsRequest, context: Context) -> model_pb2.ListModelsResponse:
        return model_pb2.ListModelsResponse(models=[convert.encode_model(door) for door in self._models.all()])

    async def GetModel(self, request: model_pb2.GetModelRequest, context: Context) -> model_pb2.GetModelResponse:
        return model_pb2.GetModelResponse(model=convert.encode_model(self._models.find(request.name, request.version)))


def _not_implemented(call: str) -> NoReturn:
    raise CallerError(Reason.NOT_IMPLEMENTED, f"{call} is part of the contract but not implemented yet")
