"""Books of durable sessions against a reference server that dies and is restored: outputs each once, in order, and what is told
again are exactly the inputs that were applied."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stepstream import ClientOptions, DeadlineExceeded, ModelInfo, SequenceMismatch, StepStreamError, TensorInfo
from stepstream._stream.calls import Call, Harvest, Keep, Row
from stepstream._stream.history import History
from stepstream._stream.ledger import Ledger
from stepstream._stream.outbox import Outbox
from stepstream._tensors import numbers
from stepstream_proto.v1.inference_pb2 import StreamRequest

FLOAT = np.dtype("float32")
TENSOR = TensorInfo("x", FLOAT, (1,))
MODEL = ModelInfo("m", 1, "lstm", (TENSOR,), (TENSOR,), (), "00", None, 8, 1000)
WINDOW, KEPT = 8, 12
RESET = -1.0


class Reference:
    """One session at a server: it notes its inputs, which are all different, and answers with them. A reset is RESET."""

    def __init__(self) -> None:
        self.applied: list[float] = []
        self.kept: list[bool] = []  # whether there are outputs, of each
        self.answered: list[float] = []  # what was applied at the numbers of which the client has heard: it must never change
        self.acked = 0
        self.durable = 0  # told
        self.waiting: deque[tuple[int, list[float], int]] = deque()  # first number, inputs, outputs asked for

    def hear(self, message: StreamRequest) -> None:
        """Takes a message. The window is never exceeded."""
        match message.WhichOneof("message"):
            case "block":
                block = message.block
                values = np.frombuffer(block.inputs[0], "<f4").tolist()
                (first,), (acked,) = numbers(block.first_seqs, "<u8"), numbers(block.acked, "<u8")
                self.acked = max(self.acked, acked)
                self.waiting.append((first, values, block.outputs))
            case "reset":
                self.waiting.append((numbers(message.reset.seqs, "<u8")[0], [RESET], Keep.NONE))
            case "acknowledge":
                self.acked = max(self.acked, *numbers(message.acknowledge.counts, "<u8"))
        admitted = len(self.applied) + sum(len(values) for _, values, _ in self.waiting)
        assert self.acked <= len(self.applied)
        assert admitted - self.acked <= WINDOW

    def run(self) -> tuple[int, list[float], int]:
        """Applies the oldest row. Returns its first number, its inputs, and how many of the last have outputs."""
        first, values, outputs = self.waiting.popleft()
        assert first == len(self.applied)
        kept = Keep(outputs).of(len(values))
        self.applied += values
        self.kept += [index >= len(values) - kept for index in range(len(values))]
        again = self.answered[first : len(self.applied)]
        assert again == values[: len(again)]  # what is told again is what was applied
        return first, values, kept

    def restore(self, count: int) -> None:
        """It dies, and stands where it stood after so many steps."""
        self.waiting.clear()
        self.durable, self.acked = max(self.durable, count), min(self.acked, count)
        del self.applied[count:], self.kept[count:]


class Pair:
    """A client's book and that server."""

    def __init__(self) -> None:
        self.outbox = Outbox(ClientOptions(), lambda: None)
        self.server = Reference()
        self.book = Ledger(0, self.outbox)
        self.book.begin(0, 0, WINDOW, 10_000)
        self.book.endure(KEPT)
        self.book.know(MODEL, 1 << 20)
        self.calls: list[tuple[Call, list[float], Keep]] = []
        self.made = 0

    def submit(self, steps: int, keep: Keep) -> None:
        """Begins a chunk; 0 steps: a reset."""
        values = [float(self.made + index) for index in range(steps)] or [RESET]
        keep = keep if steps else Keep.NONE
        self.made += steps
        call = Call(MODEL, 1, keep.of(len(values)), steps=keep.of(len(values)))
        self.calls.append((call, values, keep))
        self.book.submit(Row(call, 0, 0, len(values), keep, [np.array(values, "<f4").tobytes()] if steps else None))

    async def go_on(self, *, heard: bool = True) -> None:
        """The server hears all that the client has written, and applies a row. Its answer may get lost with the next
        crash."""
        self.pass_on()
        if self.server.waiting:
            first, values, kept = self.server.run()
            if (heard and first <= self.book.answered) or self.book.replays:
                await self.tell(first, values, kept)

    def pass_on(self) -> None:
        """The server hears all that the client has written."""
        while (message := self.outbox.pop()) is not None:
            self.server.hear(message)

    async def tell(self, first: int, values: Sequence[float], kept: int) -> None:
        """An answer arrives."""
        harvest = Harvest([np.array(values[len(values) - kept :], "<f4").reshape(-1, 1)])
        self.book.answer(first, len(values), kept, 0, harvest)
        harvest.finish()
        self.server.answered[:] = [*self.server.answered, *self.server.applied[len(self.server.answered) : self.book.answered]]
        await asyncio.sleep(0)  # when all was told again, the book goes on in the next turn
        await asyncio.sleep(0)

    def refuse(self) -> None:
        """The server refuses what waits there, which was not applied before."""
        self.pass_on()
        if self.book.replays or not self.server.waiting or len(self.server.applied) > self.book.answered:
            return
        harvest, expected = Harvest([]), len(self.server.applied)
        error: StepStreamError = DeadlineExceeded("too late")
        for first, values, _ in self.server.waiting:
            self.book.refuse(first, len(values), error, expected, harvest)
            error = SequenceMismatch("behind")
        self.server.waiting.clear()
        harvest.finish()

    def write(self, share: float) -> None:
        """Some of what was applied is in the store, and the client hears of it."""
        self.server.durable = max(self.server.durable, round(share * len(self.server.applied)))
        self.book.heed_durable(self.server.durable)

    async def crash(self, share: float) -> None:
        """The server dies, and stands anywhere from what it has told as durable on. Answers that it kept come by themselves."""
        durable, applied = self.server.durable, len(self.server.applied)
        self.server.restore(durable + round(share * (applied - durable)))
        restored = len(self.server.applied)
        self.outbox.clear()
        self.book.interrupt()
        assert self.book.replay_from is not None
        assert self.book.replay_from <= max(restored, self.book.answered)
        self.book.heed_durable(restored)
        self.server.acked = min(self.book.answered, restored)
        self.book.rejoin(restored)
        for seq in range(self.book.answered, restored):
            await self.tell(seq, [self.server.applied[seq]], int(self.server.kept[seq]))

    async def settle(self) -> None:
        """Until everything has its outcome; answers that were lost come on the next stream."""
        await self.crash(1.0)
        for _ in range(20 * len(self.calls) + 20):
            await self.go_on()
            self.write(1.0)
        assert all(call.future.done() for call, _, _ in self.calls)

    def check(self) -> None:
        """Each call has its outputs, once, and the server has applied just these inputs, in order."""
        applied = []
        for call, values, keep in self.calls:
            if call.future.exception() is None:
                applied += values
                assert call.future.result()["x"].ravel().tolist() == values[len(values) - keep.of(len(values)) :]
            else:
                applied += [each for each in values if each in self.server.applied and each != RESET]
                assert isinstance(call.future.exception(), (DeadlineExceeded, SequenceMismatch))
        assert self.server.applied == applied
        assert self.book.next_seq == self.book.answered == len(applied)


SHARE = st.floats(0, 1)
EVENT = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, WINDOW), st.sampled_from(Keep)),
    st.tuples(st.just("go on"), st.booleans()),
    st.tuples(st.just("refuse")),
    st.tuples(st.just("write"), SHARE),
    st.tuples(st.just("crash"), SHARE),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENT, max_size=60))
def test_each_input_is_applied_once_and_answered_once(events: list[tuple[Any, ...]]) -> None:
    """Whatever is lost, refused, written and restored, and whenever."""
    asyncio.run(live_through(events))


async def live_through(events: list[tuple[Any, ...]]) -> None:
    """A session's life."""
    pair = Pair()
    for kind, *more in events:
        match kind:
            case "submit":
                pair.submit(*more)
            case "go on":
                await pair.go_on(heard=more[0])
            case "refuse":
                pair.refuse()
            case "write":
                pair.write(*more)
            case "crash":
                await pair.crash(*more)
        history = pair.book.replay_from
        assert history is not None
        assert pair.book.next_seq - history <= max(KEPT, WINDOW)
    await pair.settle()
    pair.check()


def test_what_is_kept_is_a_view() -> None:
    """Inputs are not copied, nor is a stretch cut before it is told again; holes make what is older useless."""
    inputs = [b"abcdefgh"]
    history = History(3)
    history.keep(3, 5, inputs, offset=1)
    history.keep(5, 6, None)
    history.let_go(4)
    assert [(each.first_seq, each.end, each.inputs, each.offset) for each in history.between(4, 9)] == [
        (4, 5, inputs, 2),
        (5, 6, None, 0),
    ]
    assert next(history.between(4, 9)).inputs is inputs
    history.keep(9, 11, inputs)
    assert (history.first, [each.first_seq for each in history.between(0, 99)]) == (9, [9])
    history.let_go(20)
    assert (history.first, history.end, list(history.between(0, 99))) == (20, 20, [])
