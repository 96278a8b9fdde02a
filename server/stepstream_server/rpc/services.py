"""`InferenceService` and `ModelService`: convert, delegate, convert back. `SessionService` is in `session_service`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial

from stepstream_proto.v1 import (
    inference_pb2,
    inference_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
)
from stepstream_server.config import DoorSettings
from stepstream_server.rpc import columns, values
from stepstream_server.rpc.caller import complete
from stepstream_server.rpc.convert.fields import check_id
from stepstream_server.rpc.convert.models import encode_model
from stepstream_server.rpc.convert.rollouts import decode_generate
from stepstream_server.rpc.gathering import Steps
from stepstream_server.rpc.interceptors import Context
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.rollouts import RolloutCaller
from stepstream_server.rpc.stream import Stream
from stepstream_server.rpc.streams import Streams
from stepstream_server.rpc.succession import place_of


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Advances sessions."""

    def __init__(self, models: Models, streams: Streams, settings: DoorSettings) -> None:
        self._models = models
        self._streams = streams
        self._settings = settings

    async def Stream(self, request_iterator: AsyncIterator[inference_pb2.StreamRequest], context: Context) -> None:
        """Reads and writes by the context; what it writes is serialised already."""
        place = place_of(context.invocation_metadata())
        await self._streams.serve(partial(Stream, place=place), context, place)

    async def Step(self, request: inference_pb2.StepRequest, context: Context) -> inference_pb2.StepResponse:
        arrival = time.monotonic()
        door = self._models.find(request.model, request.version)
        steps, inputs = values.decode_values(request.inputs, door.spec)
        columns.check_steps("inputs", steps, self._settings.max_block_steps)
        keep = columns.decode_keep(request.outputs)
        values.check_answer(door.spec, steps, keep, self._settings.max_message_bytes)
        left = context.time_remaining()
        step = Steps(
            ids=[check_id("session_id", request.session_id)],
            length=steps,
            inputs=tuple(each.tobytes() for each in inputs),
            arrival=arrival,
            deadline=arrival + (self._settings.step_timeout_seconds if left is None else left),
            keep=keep,
            seqs=[columns.check_seq("seq", request.seq)] if request.HasField("seq") else None,
            secrets=[request.secret] if request.secret else None,
        )
        (outcome,) = await complete(door, self._models.next_stream(), step)
        if outcome.error is not None:
            raise outcome.error
        return inference_pb2.StepResponse(
            seq=outcome.first_seq,
            next_seq=outcome.first_seq + steps,
            outputs=values.encode_values(outcome.joined(), door.spec),
        )

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        door = self._models.find(request.model, request.version)
        wanted = decode_generate(request, door.spec, self._settings)
        caller = RolloutCaller(self._models.next_stream(), door, self._settings.max_message_bytes)
        context.add_done_callback(lambda _: caller.leave())  # type: ignore[arg-type]  # its stub is no Protocol
        async for response in caller.run(wanted):
            yield response


class ModelService(model_pb2_grpc.ModelServiceServicer):
    """What is served."""

    def __init__(self, models: Models) -> None:
        self._models = models

    async def ListModels(self, request: model_pb2.ListModelsRequest, context: Context) -> model_pb2.ListModelsResponse:
        return model_pb2.ListModelsResponse(models=[encode_model(door, words=False) for door in self._models.all()])

    async def GetModel(self, request: model_pb2.GetModelRequest, context: Context) -> model_pb2.GetModelResponse:
        return model_pb2.GetModelResponse(model=encode_model(self._models.find(request.name, request.version), words=True))
