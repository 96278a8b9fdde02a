"""What a model takes, gives and remembers, and what is known about a session: frozen records of messages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from google.protobuf.duration_pb2 import Duration

from stepstream._text import Text
from stepstream_proto.v1 import common_pb2, model_pb2, session_pb2

_DTYPES: dict[int, np.dtype[Any]] = {
    common_pb2.DATA_TYPE_FLOAT32: np.dtype("float32"),
    common_pb2.DATA_TYPE_INT32: np.dtype("int32"),
    common_pb2.DATA_TYPE_INT64: np.dtype("int64"),
    common_pb2.DATA_TYPE_BOOL: np.dtype("bool"),
}
_UNKNOWN = np.dtype(np.void)


@dataclass(frozen=True)
class TensorInfo:
    """One tensor of a model. `shape` is that of one step of one session: neither a batch nor a time axis."""

    name: str
    dtype: np.dtype[Any]
    """float32, int32, int64 or bool; void for one that this client does not know."""
    shape: tuple[int, ...]
    description: str = ""
    limit: int = 0
    """Inputs of whole numbers: valid values are 0 <= value < limit. 0: any of the dtype, and for all other tensors."""
    range: float = 0.0
    """float32 inputs: valid values are -range <= value <= range. 0: any finite value, and for all other tensors."""
    text: Text | None = None
    """Inputs of one token per step: how text becomes tokens, and back. Only `Client.model` and sessions bring its vocabulary."""
    labels: tuple[str, ...] = ()
    """Outputs that are classes or tokens: names of the numbers, where they have others than the vocabulary of the input. Only
    `Client.model` and sessions bring them: there may be very many."""

    @cached_property
    def step_bytes(self) -> int:
        """Bytes of one step of one session."""
        return prod(self.shape) * self.dtype.itemsize

    @property
    def is_known(self) -> bool:
        """Tells whether this client knows the dtype."""
        return self.dtype != _UNKNOWN


@dataclass(frozen=True)
class ModelInfo:
    """A named, versioned recurrent step function as the server declares it."""

    name: str
    version: int
    cell: str
    """lstm, gru, rnn, or program: a step function that somebody brought as a graph."""
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    states: tuple[TensorInfo, ...]
    fingerprint: str
    """Models with the same fingerprint give the same outputs."""
    time_step_seconds: float | None
    """Time between two steps as trained; None where steps are not moments in time."""
    window_steps: int
    """Steps per session that may be unacknowledged at once."""
    window_bytes: int
    """Bytes of outputs per session that may be unacknowledged at once."""
    description: str = ""
    licence: str = ""
    rollout_output: str = ""
    """The output that rollouts draw the next input from; "" where the model cannot be rolled out."""
    rollout_temperature: float | None = None
    """At which rollouts are drawn unless the caller says otherwise; None where the model does not say: 1."""
    batching: int | None = None
    """Steps of many sessions are computed together, in a multiple of so many rows. 0: one session after the other, since results
    would depend on who else is computed. None: the server does not tell."""

    @cached_property
    def text(self) -> Text | None:
        """Of the first input that has text: how it becomes tokens, and back. None: the model has no text."""
        return next((each.text for each in self.inputs if each.text), None)

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """Inputs and outputs of a dtype that this client does not know: the model cannot be stepped by it."""
        return tuple(each.name for each in (*self.inputs, *self.outputs) if not each.is_known)

    @cached_property
    def input_step_bytes(self) -> int:
        """Bytes of all inputs of one step of one session."""
        return sum(each.step_bytes for each in self.inputs)

    @cached_property
    def output_step_bytes(self) -> int:
        """Bytes of all outputs of one step of one session."""
        return sum(each.step_bytes for each in self.outputs)


def model_info(model: model_pb2.Model) -> ModelInfo:
    """The record for a message."""
    return ModelInfo(
        name=model.name,
        version=model.version,
        cell=model.cell,
        inputs=_with_text_of_model(model, tuple(map(_tensor_info, model.inputs))),
        outputs=tuple(map(_tensor_info, model.outputs)),
        states=tuple(map(_tensor_info, model.states)),
        fingerprint=model.fingerprint,
        time_step_seconds=_seconds(model.time_step) if model.HasField("time_step") else None,
        window_steps=model.window.steps,
        window_bytes=model.window.bytes,
        description=model.description,
        licence=model.licence,
        rollout_output=model.rollout_output,
        rollout_temperature=model.rollout_temperature if model.HasField("rollout_temperature") else None,
        batching=model.batching if model.HasField("batching") else None,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos * 1e-9


def _tensor_info(spec: common_pb2.TensorSpec) -> TensorInfo:
    dtype = _DTYPES.get(spec.data_type, _UNKNOWN)
    magnitude = float(str(np.float32(spec.range)))  # the shortest number that is this float32
    text = _text(spec.text) if spec.HasField("text") else None
    return TensorInfo(spec.name, dtype, tuple(spec.shape), spec.description, spec.limit, magnitude, text, tuple(spec.labels))


def _text(text: common_pb2.Text) -> Text:
    unknown = text.unknown if text.HasField("unknown") else None
    return Text(text.codec, tuple(text.vocabulary), unknown, text.lower, text.space)


def _with_text_of_model(model: model_pb2.Model, inputs: tuple[TensorInfo, ...]) -> tuple[TensorInfo, ...]:
    """The inputs, where a server that knows no text of inputs tells that of the model."""
    if not model.text or any(each.text for each in inputs):
        return inputs
    return (replace(inputs[0], text=Text(model.text, tuple(model.words))), *inputs[1:])


@dataclass(frozen=True)
class SessionInfo:
    """A session as the server saw it when it answered. Times are in seconds."""

    model: str
    version: int
    id: str
    quarantined: bool
    """Whether a step would have made the state non-finite, or the model raised an error at one: only reset and close are accepted
    then."""
    next_seq: int
    """Steps and resets applied so far: the number of the next step."""
    acked: int
    """Answers below this count are no longer kept."""
    epoch: int
    """Grows when the session is restored from the store."""
    pending_steps: int
    """Steps admitted and not yet applied."""
    age: float
    """Time since it was opened."""
    idle: float
    """Time since its last step."""
    idle_ttl: float
    """Idle time after which it is closed."""
    attached: bool
    """Whether a stream holds it."""
    slot: int
    """Row of the server's state pool."""
    durable: bool = False
    """True for a session that survives the death of its server."""
    durable_seq: int = 0
    """Durable: steps below this number are in the server's store."""
    stored: bool = False
    """Durable: whether it is in the store alone; whoever names it next has it restored."""


def session_info(session: session_pb2.Session) -> SessionInfo:
    """The record for a message."""
    return SessionInfo(
        model=session.model,
        version=session.version,
        id=session.id,
        quarantined=session.status == session_pb2.SESSION_STATUS_QUARANTINED,
        next_seq=session.next_seq,
        acked=session.acked,
        epoch=session.epoch,
        pending_steps=session.pending_steps,
        age=session.age.ToTimedelta().total_seconds(),
        idle=session.idle.ToTimedelta().total_seconds(),
        idle_ttl=session.idle_ttl.ToTimedelta().total_seconds(),
        attached=session.attached,
        slot=session.slot,
        durable=session.durable,
        durable_seq=session.durable_seq,
        stored=session.status == session_pb2.SESSION_STATUS_STORED,
    )
