"""Cutting a call's inputs into rows that fit the session's window and the server's messages."""

from __future__ import annotations

from stepstream._calls import Keep
from stepstream._errors import BlockTooLarge, WindowFull
from stepstream._models import ModelInfo
from stepstream._options import ClientOptions
from stepstream._outbox import MESSAGE_BYTES, ROW_BYTES


class RowLimits:
    """How long a row of a model's session may be. The same for all sessions that were opened together."""

    def __init__(self, model: ModelInfo, window_steps: int, window_bytes: int, options: ClientOptions) -> None:
        self._model = model
        self._window_bytes = window_bytes
        self._message_bytes = options.max_message_bytes - MESSAGE_BYTES - ROW_BYTES
        self._message = min(options.max_block_steps, self._message_bytes // max(model.input_step_bytes, 1))
        kept = window_bytes // max(model.output_step_bytes, 1)  # steps whose outputs the window holds
        self._window = {
            Keep.ALL: min(window_steps, kept),
            Keep.LAST: window_steps if kept else 0,
            Keep.NONE: window_steps,
        }

    def cut(self, steps: int, keep: Keep) -> list[tuple[int, Keep]]:
        """Lengths of the rows that `steps` steps travel as, and what each keeps: all but the last nothing if LAST is wanted.

        One row if that fits at all, else rows of half a window, so that one is computed while the next one is on its way.
        Raises WindowFull if the outputs of a single step exceed the window, BlockTooLarge if its inputs exceed a message.
        """
        window = self._window[keep]
        if steps <= window and steps <= self._message:
            return [(steps, keep)]
        self._check(window)
        length = max(min(window // 2, self._message), 1)
        lengths = [length] * (steps // length) + [steps % length] * (steps % length > 0)
        early = Keep.NONE if keep is Keep.LAST else keep
        return [(each, early) for each in lengths[:-1]] + [(lengths[-1], keep)]

    def _check(self, window: int) -> None:
        if window < 1:
            raise WindowFull(
                f"outputs of one step: expected at most the window of {self._window_bytes} bytes,"
                f" got {self._model.output_step_bytes}"
            )
        if self._message < 1:
            raise BlockTooLarge(
                f"inputs of one step: expected at most {self._message_bytes} bytes, got {self._model.input_step_bytes}"
            )
