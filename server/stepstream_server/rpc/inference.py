"""`InferenceService`, which advances sessions: its calls are converted, delegated and converted back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from stepstream_proto.v1 import (
    inference_pb2,
    inference_pb2_grpc,
)
from stepstream_server.config import DoorSettings
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc import columns
from stepstream_server.rpc.callers import Context, party_of, principal
from stepstream_server.rpc.coalescing import Steps
from stepstream_server.rpc.fields import check_id
from stepstream_server.rpc.generate import RolloutCaller, decode_generate
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.one_shot import check_answer, complete, decode_values, encode_values
from stepstream_server.rpc.quotas import Pace, Quotas
from stepstream_server.rpc.stream.registry import Streams
from stepstream_server.rpc.stream.stream import Stream
from stepstream_server.tenancy import scoped


def _decode_written_behind(request: inference_pb2.StepRequest) -> bool:
    """Tells whether the answer need not wait for the store. Raises CallerError where the caller could not repeat the step."""
    if request.written_behind and not request.HasField("seq"):
        message = "written_behind: expected a seq with it, since a step without a number cannot be repeated"
        raise CallerError(Reason.INVALID_ARGUMENT, message, field="written_behind")
    return request.written_behind


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Advances sessions."""

    def __init__(self, models: Models, streams: Streams, quotas: Quotas, settings: DoorSettings) -> None:
        self._models = models
        self._streams = streams
        self._quotas = quotas
        self._settings = settings

    async def Stream(self, request_iterator: AsyncIterator[inference_pb2.StreamRequest], context: Context) -> None:
        """Reads and writes by the context; what it writes is serialised already."""
        await self._streams.serve(Stream, context)

    async def Step(self, request: inference_pb2.StepRequest, context: Context) -> inference_pb2.StepResponse:
        arrival = time.monotonic()
        engine = self._models.find(request.model, request.version)
        steps, inputs = decode_values(request.inputs, engine.spec)
        columns.check_steps("inputs", steps, self._settings.max_block_steps)
        keep = columns.decode_keep(request.outputs)
        check_answer(engine.spec, steps, keep, self._settings.max_message_bytes)
        tenant = principal.get().tenant
        self._quotas.spend(tenant, steps)
        left = context.time_remaining()
        step = Steps(
            ids=[scoped(tenant, check_id("session_id", request.session_id))],
            length=steps,
            inputs=tuple(each.tobytes() for each in inputs),
            arrival=arrival,
            deadline=arrival + (self._settings.step_timeout_seconds if left is None else left),
            keep=keep,
            seqs=[columns.check_seq("seq", request.seq)] if request.HasField("seq") else None,
            secrets=[request.secret] if request.secret else None,
            behind=_decode_written_behind(request),
        )
        (outcome,) = await complete(engine, self._models.next_stream(), step)
        if outcome.error is not None:
            raise outcome.error
        return inference_pb2.StepResponse(
            seq=outcome.first_seq,
            next_seq=outcome.first_seq + steps,
            outputs=encode_values(outcome.joined(), engine.spec),
            durable_seq=outcome.durable_seq,
            epoch=outcome.epoch,
        )

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        engine = self._models.find(request.model, request.version)
        party = party_of(context)
        wanted = decode_generate(request, engine.spec, self._settings, party)
        self._quotas.spend(party.tenant, wanted.prompt_steps)
        pace = Pace(self._quotas, party.tenant)
        caller = RolloutCaller(self._models.next_stream(), engine, self._settings.max_message_bytes, pace)
        context.add_done_callback(lambda _: caller.leave())  # type: ignore[arg-type]  # its stub is no Protocol
        async for response in caller.run(wanted):
            yield response
