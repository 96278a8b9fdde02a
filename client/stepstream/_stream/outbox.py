"""What waits to be written to the stream, merged into as few messages as order allows.

Rows of one model and one kind of outputs share a message, whichever sessions they are of, one row per session. A row never goes
into the message of its session's previous row, nor into one before, and that is all the order there is: messages take effect as
sent. Only rows of one session that follow each other directly become one row, so that steps sent ahead cost the server what a
chunk does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from stepstream._models import ModelInfo
from stepstream._options import ClientOptions
from stepstream._stream.calls import Keep, Row
from stepstream._stream.ledger import Ledger
from stepstream._tensors import uint32s, uint64s
from stepstream_proto.v1 import inference_pb2 as pb

ROW_BYTES = 24  # columns of one row: handle 4, first_seq 8, length 4, acked 8
MESSAGE_BYTES = 1024  # more than a block takes beside its columns and inputs


class _Page:
    """A message in the making: columns, and how to turn them into the message."""

    __slots__ = ("acked", "first_seqs", "handles", "inputs", "keep", "kind", "lengths", "number", "size", "steps", "timeout")

    def __init__(self, number: int, kind: str, keep: Keep, timeout: int | None, inputs: int) -> None:
        self.number = number
        self.kind = kind
        self.keep = keep
        self.timeout = timeout  # milliseconds
        self.handles: list[int] = []
        self.first_seqs: list[int] = []  # or the counts of an acknowledgement
        self.lengths: list[int] = []
        self.acked: list[int] = []
        self.inputs: list[list[bytes | memoryview]] = [[] for _ in range(inputs)]
        self.size = 0  # bytes
        self.steps = 0

    def add(self, handle: int, first_seq: int, length: int, acked: int) -> None:
        self.handles.append(handle)
        self.first_seqs.append(first_seq)
        self.lengths.append(length)
        self.acked.append(acked)

    def ends_with(self, ledger: Ledger, seq: int) -> bool:
        """Whether the session's step `seq` follows the last row here, with nothing new to acknowledge."""
        if self.number != ledger.page or self.handles[-1] != ledger.handle or self.acked[-1] != ledger.answered:
            return False
        return self.first_seqs[-1] + self.lengths[-1] == seq

    def message(self) -> pb.StreamRequest:
        handles, seqs = uint32s(self.handles), uint64s(self.first_seqs)
        if self.kind == "reset":
            return pb.StreamRequest(reset=pb.Reset(handles=handles, seqs=seqs))
        if self.kind == "acknowledge":
            return pb.StreamRequest(acknowledge=pb.Acknowledge(handles=handles, counts=seqs))
        block = pb.Block(
            handles=handles,
            first_seqs=seqs,
            lengths=b"" if self.steps == len(self.handles) else uint32s(self.lengths),
            inputs=[b"".join(pieces) for pieces in self.inputs],
            outputs=self.keep.value,
            acked=uint64s(self.acked),
        )
        if self.timeout is not None:
            block.timeout.FromMilliseconds(self.timeout)
        return pb.StreamRequest(block=block)


_Key = tuple[str, str, int, Keep, int | None]  # kind, model, version, outputs, timeout


class Outbox:
    """Messages to be written, oldest first. `wake` is called whenever there is something to write."""

    def __init__(self, options: ClientOptions, wake: Callable[[], None]) -> None:
        self._max_size = options.max_message_bytes - MESSAGE_BYTES
        self._max_steps = options.max_block_steps
        self._wake = wake
        self._pages: deque[_Page | pb.StreamRequest] = deque()
        self._growing: dict[_Key, _Page] = {}
        self._count = 0  # messages so far

    def put_message(self, message: pb.StreamRequest) -> None:
        """A message of its own, after everything that is here already."""
        self._pages.append(message)
        self._count += 1
        self._wake()

    def clear(self) -> None:
        """Forgets everything: the stream that it was for is gone."""
        self._pages.clear()
        self._growing.clear()

    def put_row(self, ledger: Ledger, row: Row, seq: int) -> None:
        """Sends a numbered row's steps from `seq` on."""
        if row.inputs is None:
            self._put_reset(ledger, seq)
            return
        pieces, length = row.pieces(seq), row.end - seq
        size = ROW_BYTES + sum(map(len, pieces))
        key = _key("block", row.call.model, row.keep, row.call.milliseconds_left())
        page = self._growing.get(key)
        if page is not None and page.ends_with(ledger, seq) and row.keep is not Keep.LAST and self._has_room(page, size, length):
            page.lengths[-1] += length
            page.size += size
            page.steps += length
        else:
            page = self._page(key, len(pieces), ledger.page, size, length)
            page.add(ledger.handle, seq, length, ledger.acknowledge())
            ledger.page = page.number
        for column, piece in zip(page.inputs, pieces, strict=True):
            column.append(piece)

    def put_rows(self, ledgers: Sequence[Ledger], rows: Sequence[Row], inputs: Sequence[bytes]) -> bool:
        """Numbers and sends one row of each of many sessions, all alike, with their inputs in one piece.

        False, and nothing done, if one message cannot take them all.
        """
        length = rows[0].length
        size = ROW_BYTES * len(rows) + sum(map(len, inputs))
        if size > self._max_size or length * len(rows) > self._max_steps:
            return False
        after = max(ledger.page for ledger in ledgers)
        call = rows[0].call
        key = _key("block", call.model, rows[0].keep, call.milliseconds_left())
        page = self._page(key, len(inputs), after, size, length * len(rows))
        page.handles.extend([ledger.handle for ledger in ledgers])
        page.first_seqs.extend([ledger.number(row) for ledger, row in zip(ledgers, rows, strict=True)])
        page.lengths.extend([length] * len(rows))
        page.acked.extend([ledger.acknowledge() for ledger in ledgers])
        for pieces, piece in zip(page.inputs, inputs, strict=True):
            pieces.append(piece)
        for ledger in ledgers:
            ledger.page = page.number
        return True

    def put_acknowledgement(self, ledger: Ledger) -> None:
        """Acknowledges the session's answers so far."""
        self._put_count("acknowledge", ledger, ledger.acknowledge())

    def pop(self) -> pb.StreamRequest | None:
        """The oldest message, None if there is none."""
        if not self._pages:
            return None
        page = self._pages.popleft()
        if isinstance(page, pb.StreamRequest):
            return page
        for key, growing in self._growing.items():
            if growing is page:
                del self._growing[key]
                break
        return page.message()

    def _put_reset(self, ledger: Ledger, seq: int) -> None:
        if ledger.acknowledged < ledger.answered:
            self.put_acknowledgement(ledger)
        self._put_count("reset", ledger, seq)

    def _put_count(self, kind: str, ledger: Ledger, count: int) -> None:
        page = self._page(_key(kind, None, Keep.NONE, None), 0, ledger.page, ROW_BYTES, 1)
        page.handles.append(ledger.handle)
        page.first_seqs.append(count)
        ledger.page = page.number

    def _page(self, key: _Key, inputs: int, after: int, size: int, steps: int) -> _Page:
        """The message that a row behind message `after` of its session may join: a new one if need be."""
        page = self._growing.get(key)
        if page is None or page.number <= after or not self._has_room(page, size, steps):
            kind, _, _, keep, timeout = key
            page = _Page(self._count, kind, keep, timeout, inputs)
            self._growing[key] = page
            self._pages.append(page)
            self._count += 1
            self._wake()
        page.size += size
        page.steps += steps
        return page

    def _has_room(self, page: _Page, size: int, steps: int) -> bool:
        return page.size + size <= self._max_size and page.steps + steps <= self._max_steps


def _key(kind: str, model: ModelInfo | None, keep: Keep, timeout: int | None) -> _Key:
    return (kind, model.name if model else "", model.version if model else 0, keep, timeout)
