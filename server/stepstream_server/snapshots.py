"""A session as data: everything that another engine needs to go on where one stopped, as a record and as bytes.

The bytes are a line that names the format, the sha256 of what follows, and a safetensors file: tensors, and the other fields as
its metadata. Nothing in it can be executed, and nothing in it is trusted before it has been checked.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from stepstream_server.errors import CallerError, Reason

_FORMAT = b"StepStream snapshot 1\n"
_DIGEST_BYTES = 32
_STATE, _OUTPUT, _HELD = "state.", "output.", "held"
_FIELDS = "session"  # the metadata entry that holds all fields but tensors, as JSON

_DTYPES = tuple(map(np.dtype, ("float32", "int32", "int64", "bool")))  # of states and outputs

Tensors = dict[str, NDArray[Any]]

# Fields of a snapshot that are no tensors.
_TYPES = {
    "model": "str",
    "version": "int",
    "fingerprint": "str",
    "numerics": "str",
    "id": "str",
    "next_seq": "int",
    "acked": "int",
    "epoch": "int",
    "idle_ttl": "float",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A session's state, its numbers and its unacknowledged answers. Holds no secret."""

    model: str
    version: int
    fingerprint: str  # of the model
    numerics: str  # of the backend: where it is equal, the session goes on bitwise as it would have
    id: str
    next_seq: int
    acked: int
    epoch: int
    idle_ttl: float  # seconds
    states: Tensors  # by name: [*shape]
    held: NDArray[np.bool_]  # [next_seq - acked]: which unacknowledged steps keep their outputs
    outputs: Tensors  # by name: [sum of held, *shape]
    digest: str = ""  # sha256, in hex, of all of it in the bytes that it was decoded from; empty: it came from none

    @property
    def bytes(self) -> int:
        """Size of its tensors."""
        return sum(each.nbytes for each in (*self.states.values(), self.held, *self.outputs.values()))


def encode(snapshot: Snapshot) -> bytes:
    """The snapshot as bytes."""
    tensors = {
        **{_STATE + name: np.asarray(value, order="C") for name, value in snapshot.states.items()},
        **{_OUTPUT + name: np.asarray(value, order="C") for name, value in snapshot.outputs.items()},
        _HELD: snapshot.held,
    }
    fields = {name: getattr(snapshot, name) for name in _TYPES}
    payload = save(tensors, {_FIELDS: json.dumps(fields)})
    return _FORMAT + hashlib.sha256(payload).digest() + payload


def decode(data: bytes) -> Snapshot:
    """The reverse. Raises CallerError(SNAPSHOT_CORRUPT) for anything that `encode` has not made."""
    start = len(_FORMAT) + _DIGEST_BYTES
    digest, payload = data[len(_FORMAT) : start], data[start:]
    if not data.startswith(_FORMAT):
        raise corrupt(f"expected it to begin with {_FORMAT!r}, got {data[: len(_FORMAT)]!r}")
    if hashlib.sha256(payload).digest() != digest:
        raise corrupt(f"its {len(payload)} bytes do not have the checksum that it names")
    try:
        tensors = load(payload)
        fields = json.loads(_metadata(payload)[_FIELDS])
        values: dict[str, Any] = {name: _typed(fields, name) for name in _TYPES}
        held = tensors.pop(_HELD)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise corrupt(f"it cannot be read: {error}") from None
    odd = {name: str(each.dtype) for name, each in tensors.items() if each.dtype not in _DTYPES}
    if odd:
        raise corrupt(f"expected tensors of {', '.join(map(str, _DTYPES))}, got {odd}")
    if unclear := [name for name, each in tensors.items() if each.dtype == np.bool_ and each.view(np.uint8).max(initial=0) > 1]:
        raise corrupt(f"{unclear[0]}: expected bytes of 0 or 1")
    if held.dtype != np.bool_ or held.shape != (values["next_seq"] - values["acked"],):
        raise corrupt(f"held: expected {values['next_seq'] - values['acked']} flags, got {held.dtype} {list(held.shape)}")
    return Snapshot(**values, states=_named(tensors, _STATE), held=held, outputs=_named(tensors, _OUTPUT), digest=digest.hex())


def _typed(fields: dict[str, Any], name: str) -> Any:
    value = fields[name]
    if type(value).__name__ != _TYPES[name]:
        raise TypeError(f"{name}: expected a value of type {_TYPES[name]}, got {value!r}")
    if _TYPES[name] == "str":
        value.encode()  # raises ValueError for what is no text, which JSON can name
    elif not 0 <= value < 2**62:
        raise ValueError(f"{name}: expected a number from 0 up to 2^62, got {value}")
    return value


def _metadata(payload: bytes) -> dict[str, str]:
    """The header's entry for what is no tensor: 8 bytes of length, then JSON (the safetensors format)."""
    length = int.from_bytes(payload[:8], "little")
    metadata: dict[str, str] = json.loads(payload[8 : 8 + length])["__metadata__"]
    return metadata


def _named(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def corrupt(problem: str) -> CallerError:
    """The error for bytes that hold no session; `problem` says what was expected and what came."""
    return CallerError(Reason.SNAPSHOT_CORRUPT, f"snapshot: {problem}", field="snapshot")
