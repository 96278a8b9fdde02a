"""Records of the engine port as bytes and back: MessagePack, with arrays as they lie in memory.

Both sides are processes of one server, started from the same files: what one writes the other can read, and nobody else writes.
A record is a map of nil to its number and its fields, so that neither lists nor maps can be taken for one.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
import typing
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np

from stepstream_server import spec
from stepstream_server.engine import ports
from stepstream_server.engine.ports import PIECE, ROW
from stepstream_server.errors import CallerError, Reason, ServerFault, StepStreamError
from stepstream_server.ipc import control
from stepstream_server.snapshots import Snapshot

_COMMANDS = (
    ports.Open, ports.Attach, ports.Block, ports.Refuse, ports.Acknowledge, ports.Reset, ports.Detach, ports.Call,
    ports.CallersLeft, ports.Get, ports.List, ports.Statistics, ports.Close, ports.Fork, ports.Export, ports.Import,
    ports.Generate, ports.Took, ports.StreamEnded, ports.DoorLost, ports.Drain, ports.LimitTenants,
    ports.CountTenants, ports.Flush,
)  # fmt: skip
_RESULTS = (
    ports.Delivery, ports.Answers, ports.RowErrors, ports.Detached, ports.Reply, ports.Opened, ports.SessionInfo, ports.Page,
    ports.Forked, ports.Imported, ports.Begun, ports.Rolled, ports.InferenceTotals, ports.Limits, Snapshot, ports.TenantUse,
    ports.Durables,
)  # fmt: skip
_SPECS = (
    spec.ModelSpec, spec.TensorSpec, spec.TextSpec, spec.StateSpec, spec.HeadSpec, spec.CellModel, spec.CellSpec,
    spec.FeaturesFront, spec.EmbeddingFront, spec.Program, spec.GraphTensor, spec.GraphState, spec.Constant,
)  # fmt: skip
_RECORDS: tuple[type[Any], ...] = (*_COMMANDS, *_RESULTS, *_SPECS, *control.MESSAGES)
_ERRORS: tuple[type[StepStreamError], ...] = (CallerError, ServerFault)
_NUMBERS = {record: number for number, record in enumerate((*_RECORDS, *_ERRORS))}
_RECORD = None  # the key of a map that is a record

_ARRAY = 1  # MessagePack's code for an extension of ours
_DTYPES = [ROW, PIECE, *map(np.dtype, ("float32", "int64", "float64", "uint32", "bool", "int32", "uint8", "int16"))]
_DTYPE_NUMBERS = {dtype: number for number, dtype in enumerate(_DTYPES)}


def encode(value: Any) -> bytes:
    """A record, or lists of records and plain values. Raises TypeError for anything else."""
    packed: bytes = msgpack.packb(value, default=_plain)
    return packed


def decode(data: bytes | memoryview) -> Any:
    """The reverse. Arrays are read-only; tuples outside of records come back as lists."""
    return msgpack.unpackb(data, object_hook=_record, ext_hook=_array, strict_map_key=False)


def _plain(value: Any) -> Any:
    """What MessagePack does not know, in terms that it does."""
    if isinstance(value, np.ndarray):
        dtype = _DTYPE_NUMBERS.get(value.dtype)
        if dtype is None:
            raise TypeError(f"nothing that crosses the engine port: an array of {value.dtype}")
        head = struct.pack(f"<{2 + value.ndim}q", dtype, value.ndim, *value.shape)
        return msgpack.ExtType(_ARRAY, head + value.tobytes())
    number = _NUMBERS.get(type(value))
    if number is None:
        if isinstance(value, np.number | np.bool_):
            return value.item()
        raise TypeError(f"nothing that crosses the engine port: {type(value).__name__}")
    if isinstance(value, StepStreamError):
        fields = [value.reason, value.message, value.field, value.expected_seq, value.retry_delay_seconds, value.since]
    else:
        fields = [getattr(value, name) for name in value.__slots__]
    return {_RECORD: [number, *fields]}


def _array(code: int, data: bytes) -> Any:
    number, ndim = struct.unpack_from("<2q", data)
    shape = struct.unpack_from(f"<{ndim}q", data, 16)
    return np.frombuffer(data, _DTYPES[number], offset=16 + 8 * ndim).reshape(shape)


def _record(values: dict[Any, Any]) -> Any:
    if _RECORD not in values:
        return values
    number, *fields = values[_RECORD]
    if number >= len(_RECORDS):
        reason, message, field, expected_seq, retry_delay_seconds, since = fields
        error = _ERRORS[number - len(_RECORDS)]
        numbers = {"expected_seq": expected_seq, "retry_delay_seconds": retry_delay_seconds, "since": since}
        return error(Reason(reason), message, field=field, **numbers)
    for place, restore in _RESTORED[number]:
        fields[place] = restore(fields[place])
    return _RECORDS[number](*fields)


def _restored(record: type[Any]) -> list[tuple[int, Callable[[Any], Any]]]:
    """Which fields of a record come back as something else, and how they become what they were."""
    hints = typing.get_type_hints(record)
    found = [_restorer(hints[each.name]) for each in dataclasses.fields(record)]
    return [(place, restore) for place, restore in enumerate(found) if restore is not None]


def _restorer(hint: Any) -> Callable[[Any], Any] | None:
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    restore = _restorer(arguments[-1 if origin is dict else 0]) if origin in (tuple, list, dict) else None
    if origin is tuple:
        return tuple if restore is None else lambda values: tuple(map(restore, values))
    if restore is None:
        return None
    if origin is list:
        return lambda values: [restore(value) for value in values]
    return lambda values: {key: restore(value) for key, value in values.items()}


_RESTORED = [_restored(record) for record in _RECORDS]
