"""Values that an honest caller would send, as far as names of fields tell: so a message can be right in all but one thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from support.wire import u32, u64

HANDLES = (0, 1, 2)  # that the caller has on a stream

_SELDOM = (  # asked for
    *("version", "model_version", "durable", "idle_ttl", "timeout", "close", "levels", "paths", "stop", "fork_ids", "ids"),
    *("contents", "at_seq", "lengths", "acked", "request_id", "page_token", "repository_name", "top_k", "top_p", "secret"),
    *("outputs", "commit", "temperature"),
)
_PREFERRED = ("block", "string_param")  # of fields that exclude each other
_PARAMETERS = (*("sequence_id",) * 12, "sequence_start", "sequence_end", "sequence_step", "timeout")


class Model(NamedTuple):
    """A model as its callers know it, whose steps are of one number each, of input `x`."""

    name: str
    datatype: str  # as the Open Inference Protocol calls it
    step: bytes  # the number of one, little-endian
    sessions: Sequence[tuple[str, bytes]]  # that are open: id and secret
    snapshot: bytes  # of one of them


class Honest:
    """Knows what is true of the server. What it says next is about one session of one model, mostly of the same one."""

    def __init__(self, rng: Random, models: Sequence[Model]) -> None:
        self._rng = rng
        self._models = models
        self._seqs: Counter[int] = Counter()  # the next step of each handle, if all went well
        self.model = rng.choice(models)
        self.go_on()

    def go_on(self) -> None:
        """Begins another message."""
        self.model = self._rng.choice((*self._models, *[self.model] * 6))
        self.id, self.secret = self._rng.choice(self.model.sessions)
        self.handle = self._rng.choice(HANDLES)

    def fields(self, descriptor: Descriptor) -> Iterator[FieldDescriptor]:
        """Chooses one field of those that exclude each other, and seldom fields that are seldom asked for."""
        for oneof in descriptor.oneofs:
            if len(oneof.fields) > 1:
                preferred = [field for field in oneof.fields if field.name in _PREFERRED]
                yield self._rng.choice(preferred if preferred and self._rng.random() < 0.7 else oneof.fields)
        for field in descriptor.fields:
            alone = field.containing_oneof is None or len(field.containing_oneof.fields) == 1
            if alone and (field.name not in _SELDOM or self._rng.random() < 0.07):
                yield field

    def count(self, field: FieldDescriptor) -> tuple[int, int]:
        return (2 if field.name == "shape" else 1), 1

    def value(self, field: FieldDescriptor) -> Any:
        """A value of the field's type, whatever its name suggests."""
        value = self._meant(field)
        if field.type == FieldDescriptor.TYPE_BYTES:
            return value if isinstance(value, bytes) else b""
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return value if isinstance(value, str) else ""
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return self._rng.random() < 0.1
        return value if isinstance(value, int | float) else 1

    def _meant(self, field: FieldDescriptor) -> Any:
        holder = "" if field.containing_type is None else field.containing_type.name
        if field.name == "name":
            return self.model.name if holder.endswith("Request") else "x"
        if field.name == "key":
            return "x" if holder == "InputsEntry" else self._rng.choice(_PARAMETERS)
        return _MEANT[field.name](self) if field.name in _MEANT else None

    def pick(self, *values: Any) -> Any:
        """Chooses one value."""
        return self._rng.choice(values)

    def seq(self) -> int:
        """Mostly the next one of the handle."""
        if self._rng.random() < 0.3:
            return self._rng.randrange(4)
        self._seqs[self.handle] += 1
        return self._seqs[self.handle] - 1


_MEANT: dict[str, Callable[[Honest], Any]] = {  # by names of fields
    "model": lambda caller: caller.model.name,
    "model_name": lambda caller: caller.model.name,
    "id": lambda caller: caller.id,
    "session_id": lambda caller: caller.id,
    "secret": lambda caller: caller.secret,
    "string_param": lambda caller: caller.id,
    "snapshot": lambda caller: caller.model.snapshot,
    "handle": lambda caller: caller.handle,
    "handles": lambda caller: u32([caller.handle]),
    "first_seqs": lambda caller: u64([caller.seq()]),
    "seqs": lambda caller: u64([caller.seq()]),
    "seq": lambda caller: caller.pick(0, 1, 2, 3),
    "at_seq": lambda caller: caller.pick(0, 1, 2, 3),
    "counts": lambda caller: u64([caller.pick(0, 1, 2)]),
    "acked": lambda caller: u64([caller.pick(0, 1, 2)]),
    "lengths": lambda caller: u32([1]),
    "inputs": lambda caller: caller.model.step,
    "raw_input_contents": lambda caller: caller.model.step,
    "prompt": lambda caller: caller.model.step,
    "numbers": lambda caller: caller.pick(1.0, 2.0),
    "datatype": lambda caller: caller.model.datatype,
    "shape": lambda caller: 1,
    "max_steps": lambda caller: caller.pick(1, 8, 100),
    "outputs": lambda caller: caller.pick(0, 1, 2, 3),
    "commit": lambda caller: caller.pick(0, 1, 2, 3),
    "top_p": lambda caller: 0.5,
    "seconds": lambda caller: 60,
    "service": lambda caller: caller.pick("", "readiness", "stepstream.v1.ModelService"),
    "file_containing_symbol": lambda caller: "stepstream.v1.ModelService",
}
