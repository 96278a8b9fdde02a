"""Layouts: all that requests of one model, one set of shapes and one choice of outputs have in common.

A client sends the same layout again and again. So it is checked once and remembered, together with the part of the responses
that is the same each time; what is left per request are its elements, its sequences and its id.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.config import DoorSettings
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.columns import WIRE_TYPES, check_rows, check_steps
from stepstream_server.rpc.engine_client import EngineClient
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.oip.tensors import DATATYPES, TAKEN, Expected, decode_version, expect, wrong
from stepstream_server.spec import ModelSpec, TensorSpec

ID, START, END, STEP = "SEQUENCE_ID", "SEQUENCE_START", "SEQUENCE_END", "SEQUENCE_STEP"  # input tensors, [B] each
ERROR = "SEQUENCE_ERROR"  # an output beside SEQUENCE_STEP, [B] each, where sequences come as tensors
_COLUMN_TYPES = {ID: ("INT64", "BYTES"), START: ("BOOL",), END: ("BOOL",), STEP: ("INT64",)}

_MOST = 1024  # layouts remembered: lengths of chunks that clients use, at about 1 KiB each
# Of a response beside its outputs, generously: names and shapes; each sequence's step and the text of its error.
_RESPONSE_BYTES, _SEQUENCE_BYTES = 4096, 1100


class Layout(NamedTuple):
    """B sequences, each of `steps` steps."""

    engine: EngineClient
    rows: int  # B
    steps: int  # of one sequence
    credits: int  # that a stream takes for it
    inputs: tuple[Expected, ...]  # one per declared input, of B * steps steps
    columns: dict[str, Expected] | None  # SEQUENCE_ tensors, [B] each; None: the parameters name the one sequence
    outputs: tuple[int, ...]  # of the model, that come back
    tells_step: bool  # whether the response has SEQUENCE_STEP
    tells_error: bool
    head: bytes  # what the responses begin with, serialised


class Layouts:
    """Those that were met."""

    def __init__(self, models: Models, settings: DoorSettings) -> None:
        self._models = models
        self._settings = settings
        self._known: dict[tuple[object, ...], Layout] = {}

    def of(self, request: oip_pb2.ModelInferRequest) -> Layout:
        """Raises CallerError that names the field."""
        inputs = [(each.name, each.datatype, *each.shape) for each in request.inputs]
        key = (request.model_name, request.model_version, *inputs, *[each.name for each in request.outputs])
        layout = self._known.get(key)
        if layout is None:
            layout = self._read(request)
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = layout
        else:
            _check_bare(request)
        return layout

    def _read(self, request: oip_pb2.ModelInferRequest) -> Layout:
        engine = self._models.find(request.model_name, decode_version("model_version", request.model_version))
        spec, places = engine.spec, _places(request)
        columns = _read_columns(request, places) if ID in places else None
        count = columns[ID].elements if columns else 1
        inputs, axis = _read_inputs(request, places, spec, count)
        steps = axis or 1
        self._check_size(spec, count, count * steps)
        chosen = _read_outputs(request, [*(each.name for each in spec.outputs), *((STEP, ERROR) if columns else ())])
        leading = (count,) if axis is None else (count, axis)
        return Layout(
            engine,
            count,
            steps,
            count * steps * engine.step_credits,
            tuple(
                expect(place, request.inputs[place].datatype, count * steps * each.elements, WIRE_TYPES[each.dtype])
                for place, each in zip(inputs, spec.inputs, strict=True)
            ),
            columns,
            tuple(index for index, each in enumerate(spec.outputs) if each.name in chosen),
            STEP in chosen,
            ERROR in chosen,
            _head(spec, leading, chosen).SerializeToString(),
        )

    def _check_size(self, spec: ModelSpec, count: int, steps: int) -> None:
        """Raises CallerError(BLOCK_TOO_LARGE) before anything runs whose answer could not be sent."""
        check_rows("inputs", count, self._settings.max_handles_per_stream)
        check_steps("inputs", steps, self._settings.max_block_steps)
        most = self._settings.max_message_bytes
        expected = steps * spec.output_step_bytes + (count * _SEQUENCE_BYTES if count > 1 else 0) + _RESPONSE_BYTES
        if expected > most:
            message = f"outputs: expected a response of at most {most} bytes, this one could take {expected}"
            raise CallerError(Reason.BLOCK_TOO_LARGE, message, field="outputs")


def _places(request: oip_pb2.ModelInferRequest) -> dict[str, int]:
    """Where each input stands in the request."""
    places: dict[str, int] = {}
    for place, tensor in enumerate(request.inputs):
        if tensor.name in places:
            raise wrong(tensor.name, "expected once, got it twice")
        if min(tensor.shape, default=0) < 0:
            raise wrong(tensor.name, f"shape: expected sizes of 0 or more, got {list(tensor.shape)}")
        places[tensor.name] = place
    return places


def _read_columns(request: oip_pb2.ModelInferRequest, places: dict[str, int]) -> dict[str, Expected]:
    """Takes SEQUENCE_ tensors out of `places`. Raises CallerError where one of them is not [B] of its type."""
    columns: dict[str, Expected] = {}
    for name in [name for name in _COLUMN_TYPES if name in places]:  # SEQUENCE_ID first
        place = places.pop(name)
        tensor = request.inputs[place]
        if tensor.datatype not in _COLUMN_TYPES[name]:
            raise wrong(name, f"expected datatype {' or '.join(_COLUMN_TYPES[name])}, got {tensor.datatype!r}")
        count = columns[ID].elements if columns else max([1, *tensor.shape[:1]])
        if tuple(tensor.shape) not in ((count,), (count, 1)):
            expected = f"[{count}] as of {ID}" if columns else "[B], one per sequence"
            raise wrong(name, f"shape: expected {expected}, got {list(tensor.shape)}")
        columns[name] = expect(place, tensor.datatype, count)
    return columns


def _read_inputs(
    request: oip_pb2.ModelInferRequest, places: dict[str, int], spec: ModelSpec, count: int
) -> tuple[list[int], int | None]:
    """The places of the model's inputs, and T of [B, T, *shape]; None where none has an axis of time, one step each."""
    names = ", ".join(each.name for each in spec.inputs)
    for name in places:
        if name not in [each.name for each in spec.inputs]:
            raise wrong(name, f"expected only {names}, got an input of another name")
    found, axes = [], []
    for declared in spec.inputs:
        if declared.name not in places:
            raise wrong(declared.name, f"missing; expected the inputs {names}")
        found.append(places.pop(declared.name))
        tensor = request.inputs[found[-1]]
        if tensor.datatype not in (taken := TAKEN[declared.dtype]):
            raise wrong(declared.name, f"expected datatype {' or '.join(taken)}, got {tensor.datatype!r}")
        axes.append(_read_axis(tensor, declared, count))
        if (axes[-1] or 1) != (axes[0] or 1):  # [B, 1] of a scalar is either
            raise wrong(declared.name, f"expected {axes[0] or 1} steps as in {spec.inputs[0].name}, got {axes[-1] or 1}")
    return found, next((axis for axis in axes if axis is not None), None)


def _read_axis(tensor: oip_pb2.ModelInferRequest.InferInputTensor, declared: TensorSpec, count: int) -> int | None:
    """T. A scalar may have an axis of size 1, as config.pbtxt has it."""
    shape = tuple(tensor.shape)
    tails = [declared.shape] if declared.shape else [(), (1,)]
    if shape[:1] == (count,):
        if shape[1:] in tails:
            return None
        if len(shape) > 1 and shape[1] > 0 and shape[2:] in tails:
            return shape[1]
    dims = "".join(f", {each}" for each in tails[-1])
    raise wrong(tensor.name, f"shape: expected [{count}{dims}] or [{count}, T{dims}], got {list(shape)}")


def _read_outputs(request: oip_pb2.ModelInferRequest, names: Sequence[str]) -> set[str]:
    """Those of the names that are asked for: all if none is."""
    _check_bare(request)
    asked = [each.name for each in request.outputs]
    for name, next_name in itertools.pairwise(sorted(asked)):
        if name == next_name:
            message = f"outputs: expected each once, got {name[:50]!r} twice"
            raise CallerError(Reason.INVALID_ARGUMENT, message, field="outputs")
    if unknown := set(asked).difference(names):
        message = f"outputs: expected some of {', '.join(names)}, got {min(unknown)[:50]!r}"
        raise CallerError(Reason.INVALID_ARGUMENT, message, field="outputs")
    return set(asked or names)


def _check_bare(request: oip_pb2.ModelInferRequest) -> None:
    """Raises CallerError(NOT_IMPLEMENTED) where an output is asked for in some way."""
    for output in request.outputs:
        if output.parameters:
            message = f"outputs[{output.name}]: expected no parameters, got {', '.join(sorted(output.parameters))}"
            raise CallerError(Reason.NOT_IMPLEMENTED, message, field=f"outputs[{output.name}]")


def _head(spec: ModelSpec, leading: Sequence[int], chosen: set[str]) -> oip_pb2.ModelInferResponse:
    """A response without what is its own: its id, the step applied, and the elements."""
    head = oip_pb2.ModelInferResponse(model_name=spec.name, model_version=str(spec.version))
    head.parameters["triton_final_response"].bool_param = True  # one response to each request
    for output in spec.outputs:
        if output.name in chosen:
            head.outputs.add(name=output.name, datatype=DATATYPES[output.dtype], shape=(*leading, *output.shape))
    for name, datatype in ((STEP, "INT64"), (ERROR, "BYTES")):
        if name in chosen:
            head.outputs.add(name=name, datatype=datatype, shape=leading[:1])
    return head
