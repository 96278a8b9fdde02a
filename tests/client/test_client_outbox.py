"""What joins which message, without a connection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stepstream import ClientOptions, ModelInfo, TensorInfo
from stepstream._stream.calls import Call, Harvest, Keep, Row
from stepstream._stream.ledger import Ledger
from stepstream._stream.outbox import Outbox

FLOAT = np.dtype("float32")
TENSOR = TensorInfo("x", FLOAT, (1,))
MODEL = ModelInfo("m", 1, "lstm", (TENSOR,), (TENSOR,), (), "00", None, 8, 1000)


@pytest.fixture
def outbox() -> Outbox:
    """An outbox that nobody writes from."""
    return Outbox(ClientOptions(), lambda: None)


def ledger(outbox: Outbox, handle: int, *, position: int = 0, applied: int = 0) -> Ledger:
    """The book of a session with a window of 8 steps."""
    book = Ledger(handle, outbox)
    book.begin(position, applied, 8, 1000)
    return book


def submit(book: Ledger, steps: int, keep: Keep = Keep.ALL) -> None:
    """Sends a row."""
    call = Call(MODEL, 1, keep.of(steps), steps=keep.of(steps))
    book.submit(Row(call, 0, 0, steps, keep, [bytes(4 * steps)]))


def columns(outbox: Outbox) -> list[tuple[list[int], list[int], list[int]]]:
    """Handles, first numbers and acknowledged counts of each block."""
    found = []
    while (message := outbox.pop()) is not None:
        if message.WhichOneof("message") != "block":
            continue
        block: Any = message.block
        found.append(
            (
                np.frombuffer(block.handles, "<u4").tolist(),
                np.frombuffer(block.first_seqs, "<u8").tolist(),
                np.frombuffer(block.acked, "<u8").tolist(),
            )
        )
    return found


async def test_a_message_acknowledges_nothing_that_its_rows_ask_for(outbox: Outbox) -> None:
    """Kept answers that come while the repeat still waits to be written are acknowledged behind it, not with it."""
    book = ledger(outbox, 0, position=10, applied=18)
    submit(book, 8)
    book.answer(10, 8, 8, 0, Harvest([np.zeros((8, 1), np.float32)]))
    submit(book, 8)
    assert columns(outbox) == [([0], [10], [10]), ([0], [18], [18])]


async def test_a_message_has_one_row_per_session(outbox: Outbox) -> None:
    """A session's second row waits for the next message, where others may join it."""
    first, second = ledger(outbox, 0), ledger(outbox, 1)
    for book in (first, second, first, second):
        submit(book, 2)
    assert columns(outbox) == [([0, 1], [0, 0], [0, 0]), ([0, 1], [2, 2], [0, 0])]


async def test_rows_do_not_pass_rows_of_another_kind(outbox: Outbox) -> None:
    """A row joins no message that leaves before its session's previous row."""
    book = ledger(outbox, 0)
    for keep in (Keep.ALL, Keep.LAST, Keep.ALL, Keep.ALL):
        submit(book, 2, keep)
    assert columns(outbox) == [([0], [0], [0]), ([0], [2], [0]), ([0], [4], [0])]
