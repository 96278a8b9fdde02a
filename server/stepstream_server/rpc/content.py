"""What a block holds for its model: inputs, what to keep, until when, and what it acknowledges; or why it cannot be taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepstream_proto.v1 import inference_pb2
from stepstream_server.engine.ports import Ints, Keep
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc import columns
from stepstream_server.rpc.columns import Rows
from stepstream_server.rpc.convert.fields import decode_duration
from stepstream_server.spec import ModelSpec

_FOREVER = float("inf")
_MESSAGE_BYTES = 256  # of an answer beside its outputs, at most: columns of one row, tags and lengths of the fields


class Content(NamedTuple):
    """All of a block but its rows' handles, numbers and lengths."""

    inputs: Sequence[bytes]  # one per declared input: little-endian [sum of lengths, *shape]
    keep: Keep
    deadline: float  # monotonic seconds
    acked: Ints | None  # [n]

    def only(self, chosen: NDArray[np.bool_], lengths: Ints) -> Content:
        """That of the rows of a mask [n], of which each has its length [n] of steps."""
        steps = np.repeat(chosen, lengths)
        inputs = [np.frombuffer(data, np.uint8).reshape(len(steps), -1)[steps].tobytes() for data in self.inputs]
        return self._replace(inputs=inputs, acked=None if self.acked is None else self.acked[chosen])


def decode_content(message: inference_pb2.Block, spec: ModelSpec, rows: Rows, max_steps: int, arrival: float) -> Content:
    """Raises CallerError: rows that can be read are then refused in their order."""
    columns.check_steps("lengths", rows.steps, max_steps)
    timeout = decode_duration("timeout", message.timeout) if message.HasField("timeout") else _FOREVER
    return Content(
        inputs=columns.check_inputs(message.inputs, spec, rows.steps),
        keep=columns.decode_keep(message.outputs),
        deadline=arrival + timeout,
        acked=columns.counts_column("acked", message.acked, len(rows.handles)) if message.acked else None,
    )


def most_step_bytes(message_bytes: int) -> int:
    """What the outputs of one step may take for its answer to fit into a message."""
    return message_bytes - _MESSAGE_BYTES


def check_answer(keep: Keep, step_bytes: int, most: int) -> None:
    """Raises CallerError(BLOCK_TOO_LARGE) where the outputs of one step are more than a message can carry: never run it."""
    if step_bytes > most and keep is not Keep.NONE:
        raise CallerError(
            Reason.BLOCK_TOO_LARGE,
            f"outputs: expected answers of at most {most} bytes, one step gives {step_bytes}",
            field="outputs",
        )
