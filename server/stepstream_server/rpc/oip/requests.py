"""What a ModelInferRequest asks for: a model, sequences, their inputs, and which outputs come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.engine.ports import Call, Ints, Keep, Tensor
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.columns import check_steps
from stepstream_server.rpc.door import ModelDoor
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.oip.fields import DATATYPES, decode_version
from stepstream_server.rpc.oip.sequences import Sequences, decode_parameters, decode_tensors
from stepstream_server.rpc.oip.tensors import Input, read_inputs, wrong
from stepstream_server.spec import ModelSpec, TensorSpec

# Of a response beside its outputs, generously: names and shapes; of each sequence its step and an error's text.
_RESPONSE_BYTES, _SEQUENCE_BYTES = 4096, 16
_MICROSECONDS = 1e-6

COLUMNS: Sequence[str] = ("SEQUENCE_STEP", "SEQUENCE_ERROR")  # outputs beside the model's, [B] each


class Form(NamedTuple):
    """What the responses to requests of one kind have in common."""

    steps: int | None  # T of [B, T, *shape]; None: [B, *shape], one step
    outputs: tuple[str, ...]  # names of the outputs that come back; none: all
    columns: bool  # whether sequences came as tensors: their steps and errors then go back as such


@dataclass(frozen=True, slots=True)
class Request:
    """A request that was understood."""

    id: str
    door: ModelDoor
    form: Form
    sequences: Sequences
    lengths: Ints  # [B], all the same
    inputs: tuple[Tensor, ...]  # one per declared input: [B * T, *shape]
    timeout: float  # seconds; 0: none was given

    @property
    def steps(self) -> int:
        """Of all sequences."""
        return len(self.lengths) * (self.form.steps or 1)

    def call(self, stream: int, first_tag: int, arrival: float, deadline: float) -> Call:
        """As a momentary call; its rows' tags count from first_tag."""
        sequences = self.sequences
        return Call(
            stream=stream,
            tags=np.arange(first_tag, first_tag + len(sequences.ids), dtype=np.uint32),
            ids=sequences.ids,
            secrets=(),
            seqs=sequences.seqs,
            lengths=self.lengths,
            inputs=self.inputs,
            keep=Keep.ALL,
            arrival=arrival,
            deadline=min(deadline, arrival + self.timeout) if self.timeout else deadline,
            starts=sequences.starts,
            ends=sequences.ends,
        )


def decode_request(request: oip_pb2.ModelInferRequest, models: Models, settings: DoorSettings) -> Request:
    """Raises CallerError that names the field; nothing was applied then. ServerFault(MODEL_NOT_READY) before models are."""
    door = models.find(request.model_name, decode_version("model_version", request.model_version))
    given, parameters = read_inputs(request), request.parameters
    columns = decode_tensors(given, parameters, settings.max_handles_per_stream)
    sequences = columns or decode_parameters(parameters)
    count = len(sequences.ids)
    inputs, steps = _decode_inputs(given, door.spec, count)
    form = Form(steps, tuple([each.name for each in request.outputs]), columns is not None)
    _check_outputs(request, door.spec, form.columns)
    _check_size(door.spec, count, count * (steps or 1), settings)
    lengths = np.full(count, steps or 1)
    return Request(request.id, door, form, sequences, lengths, inputs, _decode_timeout(request))


def _decode_inputs(given: dict[str, Input], spec: ModelSpec, count: int) -> tuple[tuple[Tensor, ...], int | None]:
    """One [count * T, *shape] per declared input, and T, or None where one step each came without an axis of time."""
    tensors, steps = [], []
    for declared in spec.inputs:
        one = given.pop(declared.name, None)
        if one is None:
            names = ", ".join(each.name for each in spec.inputs)
            raise wrong(declared.name, f"missing; expected the inputs {names}")
        steps.append(_steps(one, declared, count))
        if steps[-1] != steps[0]:
            raise wrong(declared.name, f"expected {steps[0]} steps as in {spec.inputs[0].name}, got {steps[-1]}")
        tensors.append(one.array(DATATYPES[declared.dtype]).reshape(-1, *declared.shape))
    for name in given:
        raise wrong(name, f"expected only {', '.join(each.name for each in spec.inputs)}, got an input of another name")
    return tuple(tensors), steps[0]


def _steps(tensor: Input, declared: TensorSpec, count: int) -> int | None:
    """T of an input [count, T, *shape]; None for [count, *shape]. A scalar may have an axis of 1, as config.pbtxt gives it."""
    shape = tensor.shape
    tails = [declared.shape] if declared.shape else [(), (1,)]
    if shape[:1] == (count,):
        if shape[1:] in tails:
            return None
        if len(shape) > 1 and shape[1] > 0 and shape[2:] in tails:
            return shape[1]
    dims = "".join(f", {each}" for each in tails[-1])
    raise wrong(tensor.name, f"shape: expected [{count}{dims}] or [{count}, T{dims}], got {list(shape)}")


def _check_outputs(request: oip_pb2.ModelInferRequest, spec: ModelSpec, columns: bool) -> None:
    for output in request.outputs:
        names = [*(each.name for each in spec.outputs), *(COLUMNS if columns else ())]
        if output.name not in names:
            message = f"outputs: expected some of {', '.join(names)}, got {output.name[:50]!r}"
            raise CallerError(Reason.INVALID_ARGUMENT, message, field="outputs")
        if output.parameters:
            message = f"outputs[{output.name}]: expected no parameters, got {', '.join(sorted(output.parameters))}"
            raise CallerError(Reason.NOT_IMPLEMENTED, message, field=f"outputs[{output.name}]")


def _check_size(spec: ModelSpec, count: int, steps: int, settings: DoorSettings) -> None:
    """Raises CallerError(BLOCK_TOO_LARGE) before anything runs whose answer could not be sent."""
    check_steps("inputs", steps, settings.max_block_steps)
    expected = steps * spec.output_step_bytes + count * _SEQUENCE_BYTES + _RESPONSE_BYTES
    if expected > settings.max_message_bytes:
        message = f"outputs: expected a response of at most {settings.max_message_bytes} bytes, this one would take {expected}"
        raise CallerError(Reason.BLOCK_TOO_LARGE, message, field="outputs")


def _decode_timeout(request: oip_pb2.ModelInferRequest) -> float:
    """Seconds, of a parameter in microseconds; 0 if there is none."""
    if "timeout" not in request.parameters:
        return 0.0
    timeout = request.parameters["timeout"].int64_param
    if timeout < 0:
        message = f"timeout: expected microseconds of 0 or more, got {timeout}"
        raise CallerError(Reason.INVALID_ARGUMENT, message, field="timeout")
    return timeout * _MICROSECONDS
