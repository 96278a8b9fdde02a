"""Cutting a call's inputs into rows that fit the session's window and the server's messages."""

from __future__ import annotations

from collections.abc import Sequence

from stepstream._calls import Keep
from stepstream._errors import BlockTooLarge, WindowFull
from stepstream._ledger import Ledger
from stepstream._models import ModelInfo
from stepstream._options import ClientOptions
from stepstream._outbox import MESSAGE_BYTES, ROW_BYTES


def cut(model: ModelInfo, ledger: Ledger, options: ClientOptions, steps: int, keep: Keep) -> list[tuple[int, Keep]]:
    """Lengths of the rows that `steps` steps travel as, and what each keeps: all but the last keep nothing if LAST is wanted.

    One row if that fits at all, else rows of half a window, so that one is computed while the next one is on its way. Raises
    WindowFull if the outputs of a single step exceed the window, BlockTooLarge if its inputs exceed a message.
    """
    window = ledger.window_steps
    if keep is Keep.ALL and model.output_step_bytes:
        window = min(window, ledger.window_bytes // model.output_step_bytes)
    if window < 1 or (keep is Keep.LAST and model.output_step_bytes > ledger.window_bytes):
        raise WindowFull(
            f"outputs of one step: expected at most the window of {ledger.window_bytes} bytes, got {model.output_step_bytes}"
        )
    room = options.max_message_bytes - MESSAGE_BYTES - ROW_BYTES
    message = min(options.max_block_steps, room // model.input_step_bytes)
    if message < 1:
        raise BlockTooLarge(f"inputs of one step: expected at most {room} bytes, got {model.input_step_bytes}")
    length = steps if steps <= min(window, message) else max(min(window // 2, message), 1)
    lengths = [length] * (steps // length) + [steps % length] * (steps % length > 0)
    early = Keep.NONE if keep is Keep.LAST else keep
    return [(each, early) for each in lengths[:-1]] + [(lengths[-1], keep)]


def slices(model: ModelInfo, inputs: Sequence[bytes], first: int, steps: int) -> list[bytes | memoryview]:
    """The inputs of `steps` steps from `first` on, without copying."""
    if first == 0 and all(len(each) == steps * spec.step_bytes for spec, each in zip(model.inputs, inputs, strict=True)):
        return list(inputs)
    return [
        memoryview(each)[first * spec.step_bytes : (first + steps) * spec.step_bytes]
        for spec, each in zip(model.inputs, inputs, strict=True)
    ]
