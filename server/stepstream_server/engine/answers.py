"""Kept answers: what each session has been told and has not acknowledged, so that a repeat never runs a step again.

Outputs lie in one arena per output tensor, in pages of a few consecutive steps. A session's pages stand in a small ring that is
indexed by step number, so keeping, finding and letting go are array operations over many sessions at once, and an idle session
holds nothing. The arena grows by doubling and keeps its size; admission refuses steps while `bytes_used` is above its limit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import Ints, Tensor
from stepstream_server.spec import TensorSpec

_PAGE_BYTES = 1024  # aim of one page: large outputs get short pages, so that a nearly empty one wastes little
_PAGE_STEPS = 32  # most steps per page: a window of 1,024 small answers takes a ring of 33 entries, 132 bytes per session
_COUNT_CELLS = 1 << 18  # steps looked at in one operation: a few megabytes of scratch
_NO_PAGE = 0  # page 0 is never handed out, so that an untouched ring entry means "none"


class AnswerCache:
    """Outputs of steps `acked <= seq < next_seq` of each session. The caller knows the counts; this knows the bytes."""

    def __init__(self, outputs: Sequence[TensorSpec], sessions: int, window_steps: int) -> None:
        step_bytes = max(1, sum(output.step_bytes for output in outputs))
        self._page = _power_of_two_at_most(min(_PAGE_STEPS, max(1, _PAGE_BYTES // step_bytes)))
        self._ring_size = -(-window_steps // self._page) + 1  # a window may begin in the middle of a page
        self._ring = np.zeros((sessions, self._ring_size), np.int32)  # page of step s at [(s // page) % ring_size]
        self._held = np.zeros(self._page, np.bool_)  # [pages * page]: whether the step's outputs are there
        self._arena = [np.zeros((self._page, *output.shape), output.dtype) for output in outputs]
        self._free = np.zeros(0, np.int32)  # a stack of pages, `_free_count` high
        self._free_count = 0
        self._pages = 1  # including page 0
        self.step_bytes = step_bytes

    @property
    def bytes_used(self) -> int:
        """Bytes of the pages that sessions hold."""
        return (self._pages - 1 - self._free_count) * self._page * self.step_bytes

    def steps_within(self, limit: int) -> int:
        """Steps whose outputs fit into so many bytes; at least one, or a model of large outputs could not be served."""
        return max(1, limit // self.step_bytes)

    def keep(self, sessions: Ints, first_seqs: Ints, outputs: Sequence[Tensor]) -> None:
        """Keeps outputs [n, length, *shape] of the steps from first_seqs [n] on, of distinct sessions [n]."""
        length = outputs[0].shape[1]
        if length == 1:
            self._keep_one(sessions, first_seqs, outputs)
            return
        self._provide(sessions, first_seqs, length)
        seqs = first_seqs[:, None] + np.arange(length)  # [n, length]
        self._put(self._rows(sessions[:, None], seqs), outputs)

    def held(self, session: int, first: int, length: int) -> NDArray[np.bool_]:
        """Which of the steps have their outputs here: [length]."""
        return self.held_at(session, np.arange(first, first + length))

    def fetch(self, session: int, first: int, length: int) -> list[Tensor]:
        """Outputs of steps that are all held: one [length, *shape] per output."""
        return self.fetch_at(session, np.arange(first, first + length))

    def held_at(self, sessions: Ints | int, seqs: Ints) -> NDArray[np.bool_]:
        """The same for steps anywhere: [n]."""
        return self._held[self._rows(sessions, seqs)]

    def fetch_at(self, sessions: Ints | int, seqs: Ints) -> list[Tensor]:
        """Outputs of held steps anywhere: one [n, *shape] per output."""
        rows = self._rows(sessions, seqs)
        return [arena[rows] for arena in self._arena]

    def keep_held(self, session: int, first: int, held: NDArray[np.bool_], outputs: Sequence[Tensor]) -> None:
        """Keeps outputs [sum of held, *shape] of those steps from `first` on that are `held`, of a session that holds nothing."""
        if not held.any():
            return
        self._provide(np.array([session]), np.array([first]), len(held))
        self._put(self._rows(session, first + np.flatnonzero(held)), outputs)

    def count(self, sessions: Ints, first_seqs: Ints, ends: Ints) -> Ints:
        """How many steps of each range are held: [n]."""
        width = max(1, int((ends - first_seqs).max(initial=0)))
        counts = np.zeros(len(sessions), np.int64)
        for start in range(0, len(sessions), max(1, _COUNT_CELLS // width)):
            part = slice(start, start + max(1, _COUNT_CELLS // width))
            seqs = first_seqs[part, None] + np.arange(width)
            held = self.held_at(sessions[part, None], seqs) & (seqs < ends[part, None])
            counts[part] = held.sum(axis=1)
        return counts

    def release(self, sessions: Ints, old_acked: Ints, acked: Ints, next_seqs: Ints) -> None:
        """Lets go of the steps `old_acked <= seq < acked` of distinct sessions. All arguments are [n]."""
        first = old_acked // self._page
        # The page that holds `acked` itself goes too if no later step has been answered.
        end = np.where(acked == next_seqs, -(-acked // self._page), acked // self._page)
        for offset in range(int((end - first).max(initial=0))):
            due = first + offset < end
            self._free_pages(sessions[due], (first[due] + offset) % self._ring_size)

    def _keep_one(self, sessions: Ints, seqs: Ints, outputs: Sequence[Tensor]) -> None:
        """As `keep` of one step each, in half the operations."""
        entries = seqs // self._page % self._ring_size
        pages = self._ring[sessions, entries]
        if not pages.all():
            missing = (pages == _NO_PAGE).nonzero()[0]
            self._put_pages(sessions[missing], entries[missing])
            pages = self._ring[sessions, entries]
        self._put(pages.astype(np.int64) * self._page + seqs % self._page, [values[:, 0] for values in outputs])

    def release_pages(self, sessions: Ints, old_acked: Ints, acked: Ints) -> None:
        """As `release`, where another step is about to be kept: then most acknowledgements stay within their page."""
        first, end = old_acked // self._page, acked // self._page
        if (first != end).any():
            crossed = np.flatnonzero(first != end)
            self.release(sessions[crossed], old_acked[crossed], acked[crossed], acked[crossed] + 1)

    def _rows(self, sessions: Ints | int, seqs: Ints) -> Ints:
        """Arena rows of steps. Steps without a page lie in page 0, where nothing is ever held."""
        pages = self._ring[sessions, (seqs // self._page) % self._ring_size]
        rows: Ints = pages.astype(np.int64) * self._page + np.where(pages == _NO_PAGE, 0, seqs % self._page)
        return rows

    def _put(self, rows: Ints, outputs: Sequence[Tensor]) -> None:
        self._held[rows] = True
        for arena, values in zip(self._arena, outputs, strict=True):
            arena[rows] = values

    def _provide(self, sessions: Ints, first_seqs: Ints, length: int) -> None:
        """Makes sure that each step of the ranges has a page."""
        first, last = first_seqs // self._page, (first_seqs + length - 1) // self._page
        for offset in range(int((last - first).max(initial=0)) + 1):
            numbers = first + offset
            entries = numbers % self._ring_size
            missing = ((numbers <= last) & (self._ring[sessions, entries] == _NO_PAGE)).nonzero()[0]
            if missing.size:
                self._put_pages(sessions[missing], entries[missing])

    def _put_pages(self, sessions: Ints, entries: Ints) -> None:
        """A page where there is none."""
        pages = self._take_pages(len(sessions))
        self._ring[sessions, entries] = pages
        self._held.reshape(-1, self._page)[pages] = False

    def _take_pages(self, count: int) -> NDArray[np.int32]:
        if count > self._free_count:
            self._grow(count)
        self._free_count -= count
        return self._free[self._free_count : self._free_count + count].copy()

    def _free_pages(self, sessions: Ints, entries: Ints) -> None:
        pages = self._ring[sessions, entries]
        self._ring[sessions, entries] = _NO_PAGE
        pages = pages[pages != _NO_PAGE]
        self._free[self._free_count : self._free_count + len(pages)] = pages
        self._free_count += len(pages)

    def _grow(self, count: int) -> None:
        """At least doubles the arena, so that growing costs O(1) per page over time."""
        old = self._pages
        self._pages = max(2 * old, old + count)
        fresh = np.arange(self._pages - 1, old - 1, -1, dtype=np.int32)
        self._free = np.concatenate([self._free[: self._free_count], fresh, np.zeros(old + 1, np.int32)])  # room for all pages
        self._free_count += len(fresh)
        rows = self._pages * self._page
        self._held = np.concatenate([self._held, np.zeros(rows - len(self._held), np.bool_)])
        for index, arena in enumerate(self._arena):
            more = np.zeros((rows - len(arena), *arena.shape[1:]), arena.dtype)
            self._arena[index] = np.concatenate([arena, more])


def _power_of_two_at_most(number: int) -> int:
    return 1 << (number.bit_length() - 1)
