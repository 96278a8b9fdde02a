"""Rollouts: one `RolloutCaller` for each Generate, which asks the engine and passes on what is drawn.

What the engine tells while a message is being written leaves with the next one: whoever reads slowly gets fewer and longer
messages. The engine in turn waits for callers that have not taken what they were told.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence

import numpy as np

from stepstream_proto.v1 import inference_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine.ports import (
    NO_SEQ,
    NO_STREAM,
    TAKEN_AT_ONCE,
    Commit,
    Durables,
    Generate,
    RolloutEnding,
    RowErrors,
    Tensor,
    Took,
)
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc import columns
from stepstream_server.rpc.callers import Party
from stepstream_server.rpc.deliveries import Drawn
from stepstream_server.rpc.engine_client import EngineClient, decode_row_error
from stepstream_server.rpc.fields import check_id
from stepstream_server.rpc.quotas import Pace
from stepstream_server.spec import MAX_STOP_TOKENS, MAX_STOPS, HeadSpec, ModelSpec
from stepstream_server.tenancy import scoped

MAX_PATHS = 1024  # quantiles at 0.01 and 0.99 have ten paths beyond them
MAX_LEVELS = 99  # every percent
MAX_OUTPUT_BYTES = 4 << 10  # of one step, where outputs are wanted: what all rollouts have unread stays within 2 GiB
_DEFAULT_LEVELS = (0.1, 0.5, 0.9)
_MESSAGE_BYTES = 128  # of a message beside its columns
_ENDINGS = {
    None: inference_pb2.ROLLOUT_ENDING_UNSPECIFIED,
    RolloutEnding.STOP: inference_pb2.ROLLOUT_ENDING_STOP,
    RolloutEnding.LENGTH: inference_pb2.ROLLOUT_ENDING_LENGTH,
}
_COMMITS = {0: Commit.END, 1: Commit.END, 2: Commit.EACH, 3: Commit.NONE}


def encode_drawn(drawn: Drawn, spec: ModelSpec, durable_seq: int, epoch: int) -> inference_pb2.GenerateResponse:
    """A message."""
    dtype = spec.inputs[0].dtype
    tokens = dtype != "float32"
    if dtype == "int32":  # tokens are of 8 bytes in the contract
        drawn = drawn._replace(values=np.frombuffer(drawn.values, columns.WIRE_TYPES[dtype]).astype(columns.I64).tobytes())
    return inference_pb2.GenerateResponse(
        first_seq=drawn.first_seq,
        outputs=drawn.outputs,
        tokens=drawn.values if tokens else b"",
        values=b"" if tokens else drawn.values,
        next_seq=drawn.next_seq,
        ending=_ENDINGS[drawn.ending],
        durable_seq=durable_seq,
        epoch=epoch,
    )


def most_draws(spec: ModelSpec, wanted: Generate, max_message_bytes: int) -> int:
    """As many as a message can carry; at least 1."""
    step_bytes = _draw_bytes(spec) * max(1, len(wanted.levels)) + wanted.outputs * spec.output_step_bytes
    return max(1, (max_message_bytes - _MESSAGE_BYTES) // step_bytes)


def _draw_bytes(spec: ModelSpec) -> int:
    """Of one step in a message, where tokens take 8 bytes."""
    return spec.inputs[0].elements * (4 if spec.inputs[0].dtype == "float32" else 8)


def decode_generate(request: inference_pb2.GenerateRequest, spec: ModelSpec, settings: DoorSettings, party: Party) -> Generate:
    """A command without its stream and request. Raises CallerError that names the field."""
    head = spec.rollout_head
    if head is None:
        message = f"model: {spec.name!r} has no output that predicts its next input, so that it cannot be rolled out"
        raise CallerError(Reason.INVALID_ARGUMENT, message, field="model")
    paths = request.paths or 1
    commit = _decode_commit(request.commit)
    _check_settings(request, head)
    _check_paths(paths, commit, request, head)
    return Generate(
        stream=NO_STREAM,
        request=0,
        id=scoped(party.tenant, check_id("session_id", request.session_id)) if request.session_id else "",
        secret=request.secret,
        at_seq=columns.check_seq("seq", request.seq) if request.HasField("seq") else NO_SEQ,
        commit=commit,
        prompt=_decode_prompt(request.prompt, spec, settings.max_block_steps),
        max_steps=_at_least("max_steps", request.max_steps, 1),
        arrival=time.monotonic(),
        temperature=request.temperature,
        top_k=request.top_k,
        top_p=request.top_p,
        seed=request.seed,
        stop=(*_decode_stops(request.stop, spec, head), *head.stop),
        paths=paths,
        levels=_decode_levels(request.levels) if paths > 1 else (),
        client=party.client,
        outputs=request.outputs and _check_outputs(paths, spec, settings.max_message_bytes),
    )


def _decode_commit(commit: int) -> Commit:
    if commit not in _COMMITS:
        raise _wrong("commit", "END, EACH or NONE", commit)
    return _COMMITS[commit]


def _check_settings(request: inference_pb2.GenerateRequest, head: HeadSpec) -> None:
    """How is drawn."""
    if not (math.isfinite(request.temperature) and request.temperature >= 0):
        raise _wrong("temperature", "a finite number, 0 or more", request.temperature)
    if not 0 <= request.top_p <= 1:
        raise _wrong("top_p", "a number from 0 to 1", request.top_p)
    if head.kind == "regression" and request.temperature:
        raise _wrong("temperature", f"0, since output {head.name!r} is a value and no distribution", request.temperature)
    if head.kind != "next_token":
        for field in ("top_k", "top_p"):
            if value := getattr(request, field):
                raise _wrong(field, "0, since the model draws no tokens", value)


def _check_paths(paths: int, commit: Commit, request: inference_pb2.GenerateRequest, head: HeadSpec) -> None:
    if paths > 1 and head.kind == "next_token":
        raise _wrong("paths", "1, since tokens have no quantiles", paths)
    if paths > MAX_PATHS:
        raise _wrong("paths", f"at most {MAX_PATHS}", paths)
    if request.levels and paths == 1:
        raise _wrong("levels", "none, since there is but one path", list(request.levels))
    if paths > 1 and commit is not Commit.NONE:
        raise _wrong("commit", "NONE, since there are several paths", commit.name)
    if paths > 1 and not request.temperature:
        raise _wrong("temperature", "more than 0, since several paths would be the same one", request.temperature)


def _decode_prompt(data: Sequence[bytes], spec: ModelSpec, most: int) -> tuple[Tensor, ...]:
    """Steps to be fed: one [steps, *shape] per input, or none at all."""
    if not any(data):
        return ()
    declared = spec.inputs[0]
    if len(data) != 1:
        raise _wrong("prompt", f"one entry, for input {declared.name!r}", len(data))
    if len(data[0]) % declared.step_bytes:
        raise _wrong("prompt[0]", f"a multiple of {declared.step_bytes} bytes", len(data[0]))
    columns.check_steps("prompt[0]", len(data[0]) // declared.step_bytes, most)
    values = np.frombuffer(data[0], columns.WIRE_TYPES[declared.dtype]).reshape(-1, *declared.shape)
    if not np.isfinite(values).all():
        message = "prompt[0]: expected finite numbers, got NaN or infinity"
        raise CallerError(Reason.NON_FINITE_INPUT, message, field="prompt[0]")
    if not (within := declared.within(values)).all():
        message = f"prompt[0]: expected {declared.bounds}, got {values[~within][0]}"
        raise CallerError(Reason.INPUT_OUT_OF_RANGE, message, field="prompt[0]")
    return (values,)


def _decode_stops(stops: Sequence[bytes], spec: ModelSpec, head: HeadSpec) -> tuple[tuple[int, ...], ...]:
    if stops and head.kind != "next_token":
        raise _wrong("stop", "none, since the model draws no tokens", len(stops))
    if len(stops) > MAX_STOPS:
        raise _wrong("stop", f"at most {MAX_STOPS} sequences", len(stops))
    for index, data in enumerate(stops):
        if not data or len(data) % 8 or len(data) > 8 * MAX_STOP_TOKENS:
            raise _wrong(f"stop[{index}]", f"1 to {MAX_STOP_TOKENS} tokens of 8 bytes", f"{len(data)} bytes")
    sequences = tuple(tuple(np.frombuffer(data, columns.I64).tolist()) for data in stops)
    for index, sequence in enumerate(sequences):
        if not spec.inputs[0].within(np.array(sequence)).all():
            raise _wrong(f"stop[{index}]", spec.inputs[0].bounds, list(sequence))
    return sequences


def _decode_levels(levels: Sequence[float]) -> tuple[float, ...]:
    if len(levels) > MAX_LEVELS:
        raise _wrong("levels", f"at most {MAX_LEVELS}", len(levels))
    ascending = all(low < high for low, high in itertools.pairwise(levels))
    if not (ascending and all(0 < level < 1 for level in levels)):
        raise _wrong("levels", "ascending numbers between 0 and 1", list(levels))
    return tuple(levels) or _DEFAULT_LEVELS


def _check_outputs(paths: int, spec: ModelSpec, max_message_bytes: int) -> bool:
    """True, since they are wanted."""
    if paths > 1:
        raise _wrong("outputs", "false, since there are several paths", "true")
    most = min(MAX_OUTPUT_BYTES, max_message_bytes - _MESSAGE_BYTES - _draw_bytes(spec))
    if spec.output_step_bytes > most:
        message = f"outputs: expected at most {most} bytes of outputs per step, the model has {spec.output_step_bytes}"
        raise CallerError(Reason.BLOCK_TOO_LARGE, message, field="outputs")
    return True


def _at_least(field: str, value: int, least: int) -> int:
    if value < least:
        raise _wrong(field, f"at least {least}", value)
    return value


def _wrong(field: str, expected: str, actual: object) -> CallerError:
    return CallerError(Reason.INVALID_ARGUMENT, f"{field}: expected {expected}, got {actual}", field=field)


class RolloutCaller:
    """On the event loop's thread. The `RolloutListener` of its model under a number that no other has."""

    def __init__(self, number: int, engine: EngineClient, max_message_bytes: int, pace: Pace) -> None:
        """pace: at which draws may come; beyond it what is drawn is passed on later, so that the engine draws no further."""
        self._number = number
        self._engine = engine
        self._pace = pace
        self._most_bytes = max_message_bytes
        self._paths = 1
        self._told: deque[Drawn] = deque()
        self._error: StepStreamError | None = None
        self._woken = asyncio.Event()
        self._taken = 0  # draws that the engine does not know to be taken
        self._durable_seq = self._epoch = 0  # of a durable session that it commits to

    async def run(self, wanted: Generate) -> AsyncIterator[inference_pb2.GenerateResponse]:
        """The messages of one rollout, whose stream and request are filled in here. Raises StepStreamError."""
        self._paths = wanted.paths
        self._engine.follow(self._number, self)
        try:
            await self._begin(wanted)
            most = most_draws(self._engine.spec, wanted, self._most_bytes)
            ended = False
            while not ended:
                for drawn in await self._take(most):
                    yield encode_drawn(drawn, self._engine.spec, self._durable_seq, self._epoch)
                    self._count(drawn.steps)
                    ended = drawn.ending is not None
                    while self._pace.used_up and not ended:
                        self._engine.submit(Took(self._number, 0))  # somebody reads: the tenant's rate alone holds them up
                        await self._pace.wait()
            self._engine.forget(self._number)
        finally:
            self.leave()

    def leave(self) -> None:
        """Nothing more is wanted: the rollout, if it has not ended, is cancelled. To be called as soon as the call is over, since
        a generator that nobody reads on is told late."""
        self._engine.hang_up(self._number)

    async def _begin(self, wanted: Generate) -> None:
        """Returns once the rollout has begun. Raises StepStreamError."""
        try:
            await self._engine.ask(lambda request: dataclasses.replace(wanted, stream=self._number, request=request))
        except CallerError as error:
            if error.field == "id":
                error.field = "session_id"  # as the contract has it here
            raise

    async def _take(self, most: int) -> list[Drawn]:
        """What has been told since, at least something, as messages of at most so many draws. Raises StepStreamError."""
        while not self._told:
            if self._error is not None:
                raise self._error
            self._woken.clear()
            await self._woken.wait()
        told, self._told = self._told, deque()
        return list(Drawn.joined(told).cut(most))

    def _count(self, draws: int) -> None:
        """gRPC has taken a message."""
        self._taken += draws
        if self._taken >= TAKEN_AT_ONCE:
            self._engine.submit(Took(self._number, self._taken))
            self._taken = 0

    def rolled(self, drawn: Drawn) -> None:
        """Draws have been computed, whether or not they are read."""
        self._pace.take(drawn.steps * self._paths)
        self._told.append(drawn)
        self._woken.set()

    def durable(self, engine: EngineClient, durables: Durables, row: int) -> None:
        self._durable_seq, self._epoch = durables.counts[row], durables.epochs[row]

    def refused(self, engine: EngineClient, errors: RowErrors, row: int) -> None:
        self._fail(decode_row_error(errors, row))

    def failed(self, engine: EngineClient, error: StepStreamError) -> None:
        self._fail(error)

    def _fail(self, error: StepStreamError) -> None:
        self._error = error
        self._woken.set()
