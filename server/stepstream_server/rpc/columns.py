"""Columns of blocks: little-endian bytes on the wire, numpy arrays inside. No object per row.

The hot path: for a single-step message every microsecond here is paid per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Ints, Keep, Tensor
from stepstream_server.errors import CallerError, Reason
from stepstream_server.spec import DType, ModelSpec

U32 = np.dtype("<u4")
I64 = np.dtype("<i8")
WIRE_TYPES: dict[DType, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "int32": np.dtype("<i4"),
    "int64": I64,
    "bool": np.dtype("?"),
}
_LARGEST = (1 << 63) - 1  # of an acknowledgement
SEQ_BITS = 62  # of a step number: adding the length of a row never overflows
_ONES: Ints = np.ones(1024, np.int64)  # the lengths of all single-step messages but very large ones
_ONES.flags.writeable = False

_KEEP = {0: Keep.ALL, 1: Keep.ALL, 2: Keep.LAST, 3: Keep.NONE}  # Outputs of the contract, UNSPECIFIED is ALL


class Rows(NamedTuple):
    """What is needed to answer rows one by one, whatever they hold. n rows."""

    handles: NDArray[np.uint32]  # [n]
    first_seqs: Ints  # [n]
    lengths: Ints  # [n], each >= 1
    steps: int  # sum of lengths

    def only(self, chosen: NDArray[np.bool_] | Ints) -> Rows:
        """Those of a mask [n], or of these positions."""
        lengths = self.lengths[chosen]
        return Rows(self.handles[chosen], self.first_seqs[chosen], lengths, int(lengths.sum()))


def handles_column(data: bytes, most: int) -> NDArray[np.uint32]:
    """uint32[n]. Raises CallerError(INVALID_ARGUMENT), or CallerError(BLOCK_TOO_LARGE) for more rows than `most`."""
    if len(data) % 4:
        raise _wrong_bytes("handles", "a multiple of 4 bytes", len(data))
    check_rows("handles", len(data) // 4, most)
    return np.frombuffer(data, U32)


def check_rows(field: str, rows: int, most: int) -> None:
    """Raises CallerError(BLOCK_TOO_LARGE) for more rows than anybody wants to be told of one by one."""
    if rows > most:
        raise CallerError(Reason.BLOCK_TOO_LARGE, f"{field}: expected at most {most} in one message, got {rows}", field=field)


def counts_column(field: str, data: bytes, rows: int) -> Ints:
    """uint64[rows]; what int64 cannot hold becomes its largest. Raises CallerError(INVALID_ARGUMENT)."""
    counts = _u64_column(field, data, rows)
    return np.where(counts < 0, _LARGEST, counts) if _all_bits(counts) < 0 else counts


def seqs_column(field: str, data: bytes, rows: int) -> Ints:
    """uint64[rows], each below 2^62. Raises CallerError(INVALID_ARGUMENT)."""
    seqs = _u64_column(field, data, rows)
    if _all_bits(seqs) >> SEQ_BITS:
        raise CallerError(Reason.INVALID_ARGUMENT, f"{field}: expected numbers below 2^62", field=field)
    return seqs


def decode_rows(message: inference_pb2.Block, handles: NDArray[np.uint32]) -> Rows:
    """Reads the numbers and lengths of a block of at least one row. Raises CallerError(INVALID_ARGUMENT)."""
    lengths, steps = _lengths(message.lengths, len(handles))
    return Rows(handles, seqs_column("first_seqs", message.first_seqs, len(handles)), lengths, steps)


def check_steps(field: str, steps: int, limit: int) -> None:
    """Raises CallerError(BLOCK_TOO_LARGE)."""
    if steps > limit:
        raise CallerError(Reason.BLOCK_TOO_LARGE, f"{field}: expected at most {limit} steps, got {steps}", field=field)


def check_seq(field: str, seq: int) -> int:
    """Raises CallerError(INVALID_ARGUMENT)."""
    if seq >> SEQ_BITS:
        raise CallerError(Reason.INVALID_ARGUMENT, f"{field}: expected a number below 2^62, got {seq}", field=field)
    return seq


def check_inputs(inputs: Sequence[bytes], spec: ModelSpec, steps: int) -> Sequence[bytes]:
    """Returns inputs that are so many steps of each declared input. Raises CallerError(INVALID_ARGUMENT) for others."""
    if len(inputs) != len(spec.inputs):
        raise CallerError(
            Reason.INVALID_ARGUMENT,
            f"inputs: expected {len(spec.inputs)} ({', '.join(each.name for each in spec.inputs)}), got {len(inputs)}",
            field="inputs",
        )
    for index, (data, declared) in enumerate(zip(inputs, spec.inputs, strict=True)):
        expected = steps * declared.step_bytes
        if len(data) != expected:
            meaning = f"{expected} bytes ({declared.name}: {steps} steps of {declared.step_bytes})"
            raise _wrong_bytes(f"inputs[{index}]", meaning, len(data))
        if declared.dtype == "bool":
            check_bools(f"inputs[{index}]", data)
    return inputs


def check_bools(field: str, data: bytes) -> None:
    """Raises CallerError(INVALID_ARGUMENT) for a byte that is neither 0 nor 1: numpy and graphs differ about what it means."""
    largest = int(np.frombuffer(data, np.uint8).max(initial=0))
    if largest > 1:
        raise CallerError(Reason.INVALID_ARGUMENT, f"{field}: expected bytes of 0 or 1, got {largest}", field=field)


def to_wire(values: Tensor) -> bytes:
    """Elements as they go over the wire."""
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def decode_keep(outputs: int) -> Keep:
    """Raises CallerError(INVALID_ARGUMENT) for a number that the contract does not name."""
    keep = _KEEP.get(outputs)
    if keep is None:
        raise CallerError(Reason.INVALID_ARGUMENT, f"outputs: expected ALL, LAST or NONE, got {outputs}", field="outputs")
    return keep


def _lengths(data: bytes, rows: int) -> tuple[Ints, int]:
    if not data:
        return _ONES[:rows] if rows <= len(_ONES) else np.ones(rows, np.int64), rows
    if len(data) != 4 * rows:
        raise _wrong_bytes("lengths", f"none or 4 bytes per row, {4 * rows}", len(data))
    lengths = np.frombuffer(data, U32).astype(np.int64)
    if int(lengths.min()) == 0:
        raise CallerError(Reason.INVALID_ARGUMENT, "lengths: expected at least 1 in every row, got 0", field="lengths")
    return lengths, int(lengths.sum())


def _u64_column(field: str, data: bytes, rows: int) -> Ints:
    """As int64: what is 2^63 or more comes out negative."""
    if len(data) != 8 * rows:
        raise _wrong_bytes(field, f"8 bytes per row, {8 * rows}", len(data))
    return np.frombuffer(data, I64)


def _all_bits(numbers: Ints) -> int:
    """The bits that are set in any of them; negative if one of them is."""
    bits: int = numbers.item() if len(numbers) == 1 else np.bitwise_or.reduce(numbers)
    return bits


def _wrong_bytes(field: str, expected: str, actual: int) -> CallerError:
    return CallerError(Reason.INVALID_ARGUMENT, f"{field}: expected {expected}, got {actual}", field=field)
