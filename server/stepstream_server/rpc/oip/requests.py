"""A ModelInferRequest as it was understood, and the momentary call that it becomes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.engine.ports import Call, Keep, Tensor
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.oip.layouts import Layout, Layouts
from stepstream_server.rpc.oip.sequences import Sequences, decode_columns, decode_parameters
from stepstream_server.rpc.oip.tensors import array, check_elements

_MICROSECONDS = 1e-6


class Request(NamedTuple):
    """What is asked for."""

    id: str
    layout: Layout
    sequences: Sequences
    inputs: tuple[Tensor, ...]  # one per declared input: [B * steps, *shape]
    timeout: float  # seconds; 0: none was given

    def call(self, stream: int, first_tag: int, arrival: float, deadline: float) -> Call:
        """Its rows' tags count from first_tag. Times in monotonic seconds."""
        sequences = self.sequences
        return Call(
            stream=stream,
            tags=np.arange(first_tag, first_tag + self.layout.rows, dtype=np.uint32),
            ids=sequences.ids,
            secrets=(),
            seqs=sequences.seqs,
            lengths=self.layout.lengths,
            inputs=self.inputs,
            keep=Keep.ALL,
            arrival=arrival,
            deadline=min(deadline, arrival + self.timeout) if self.timeout else deadline,
            starts=sequences.starts,
            ends=sequences.ends,
        )


def decode_request(request: oip_pb2.ModelInferRequest, layouts: Layouts) -> Request:
    """Raises CallerError that names the field, ServerFault(MODEL_NOT_READY) before models are. Nothing was applied then."""
    raw = check_elements(request)
    layout = layouts.of(request)
    sequences = decode_parameters(request) if layout.columns is None else decode_columns(request, layout.columns, raw)
    inputs = tuple([array(request, expected, raw) for expected in layout.inputs])
    return Request(request.id, layout, sequences, inputs, _decode_timeout(request))


def _decode_timeout(request: oip_pb2.ModelInferRequest) -> float:
    """Seconds, of a parameter in microseconds; 0 if there is none."""
    parameter = request.parameters.get("timeout")
    if parameter is None:
        return 0.0
    timeout = parameter.int64_param
    if timeout < 0:
        message = f"timeout: expected microseconds of 0 or more, got {timeout}"
        raise CallerError(Reason.INVALID_ARGUMENT, message, field="timeout")
    return timeout * _MICROSECONDS
