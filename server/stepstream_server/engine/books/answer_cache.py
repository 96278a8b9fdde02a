"""Kept answers: what each session has been told and has not acknowledged, so that a repeat never runs a step again.

Outputs lie in one arena per output tensor, in pages of a few consecutive steps. A session's pages stand in a small ring that is
indexed by step number, so an idle session holds nothing. The arena grows by doubling and keeps its size; admission refuses steps
while `bytes_used` is above its limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.compiled import compiled
from stepstream_server.engine.ports import Ints, Tensor
from stepstream_server.spec import TensorSpec

_PAGE_BYTES = 1024  # aim of one page: large outputs get short pages, so that a nearly empty one wastes little
_PAGE_STEPS = 32  # most steps per page: a window of 1,024 small answers takes a ring of 33 entries, 132 bytes per session
_NO_PAGE: Final = 0  # page 0 is never handed out, so that an untouched ring entry means "none"

_COUNTS = np.dtype(
    [
        ("page", np.int64),  # steps of one page
        ("pages", np.int64),  # of the arena, page 0 included
        ("free", np.int64),  # pages that nobody holds
    ],
    align=True,
)


class Pages(NamedTuple):
    """Where each session's answers lie, as compiled rules see it. The place of a step in the arena is an index of steps."""

    ring: NDArray[np.int32]  # [sessions, ring]: page of step s at [(s // page) % ring]
    held: NDArray[np.bool_]  # [pages * page]: whether the step's outputs are there
    free: NDArray[np.int32]  # a stack of pages
    counts: NDArray[Any]  # [1] of _COUNTS


class AnswerCache:
    """Outputs of steps `acked <= seq < next_seq` of each session. The caller knows the counts; this knows the bytes."""

    def __init__(self, outputs: Sequence[TensorSpec], sessions: int, window_steps: int) -> None:
        self.step_bytes = max(1, sum(output.step_bytes for output in outputs))
        self._page = _power_of_two_at_most(min(_PAGE_STEPS, max(1, _PAGE_BYTES // self.step_bytes)))
        counts = np.zeros(1, _COUNTS)
        counts["page"], counts["pages"] = self._page, 1
        ring = np.zeros((sessions, -(-window_steps // self._page) + 1), np.int32)  # a window may begin in the middle of a page
        self.pages = Pages(ring, np.zeros(self._page, np.bool_), np.zeros(0, np.int32), counts)
        self._free = counts["free"]  # an array of one
        self._arena = [np.zeros((self._page, *output.shape), output.dtype) for output in outputs]

    @property
    def bytes_used(self) -> int:
        """Bytes of the pages that sessions hold."""
        return int(pages_used(self.pages)) * self.page_bytes

    @property
    def page_bytes(self) -> int:
        return self._page * self.step_bytes

    def steps_within(self, limit: int) -> int:
        """Steps whose outputs fit into so many bytes; at least one, or a model of large outputs could not be served."""
        return max(1, limit // self.step_bytes)

    def make_room(self, rows: int, length: int) -> bool:
        """Has a free page for each that so many rows of consecutive steps may need. Returns whether `pages` are new arrays."""
        needed = rows * ((length - 1) // self._page + 2)
        if needed <= self._free[0]:
            return False
        self._grow(needed)
        return True

    def put(self, places: Ints, outputs: Sequence[Tensor]) -> None:
        """Writes outputs [n, *shape] of steps whose places [n] `place_for` has given."""
        for arena, values in zip(self._arena, outputs, strict=True):
            arena[places] = values

    def get(self, places: Ints) -> list[Tensor]:
        """Outputs of held steps, by their places [n]: one [n, *shape] per output."""
        return [arena[places] for arena in self._arena]

    def find(self, session: int, first: int, length: int) -> Ints:
        """Places of a session's steps; -1 for those that are not held: [length]."""
        places = np.empty(length, np.int64)
        find_places(self.pages, session, first, places)
        return places

    def find_all(self, sessions: Ints, firsts: Ints, ends: Ints) -> Ints:
        """Places of the steps [first, end) of each session, one session behind the other; -1 for those that are not held."""
        places = np.empty(int((ends - firsts).sum()), np.int64)
        find_all_places(self.pages, sessions, firsts, ends, places)
        return places

    def keep(self, session: int, seqs: Ints, outputs: Sequence[Tensor]) -> None:
        """Keeps outputs [n, *shape] of a session's steps [n]; `make_room` has been called for them."""
        places = np.empty(len(seqs), np.int64)
        make_places(self.pages, session, seqs, places)
        self.put(places, outputs)

    def _grow(self, needed: int) -> None:
        """At least doubles the arena, so that growing costs O(1) per page over time."""
        ring, held, free, counts = self.pages
        old = int(counts["pages"][0])
        new = max(2 * old, old + needed)
        fresh = np.arange(new - 1, old - 1, -1, dtype=np.int32)
        stack = np.concatenate([free[: counts["free"][0]], fresh, np.zeros(old, np.int32)])[:new]  # room for all pages
        counts["pages"] = new
        counts["free"] += len(fresh)
        more = (new - old) * self._page
        self.pages = Pages(ring, np.concatenate([held, np.zeros(more, np.bool_)]), stack, counts)
        for index, arena in enumerate(self._arena):
            self._arena[index] = np.concatenate([arena, np.zeros((more, *arena.shape[1:]), arena.dtype)])


@compiled
def pages_used(pages: Pages) -> int:
    """Pages that sessions hold."""
    counts = pages.counts[0]
    used: int = counts["pages"] - 1 - counts["free"]
    return used


@compiled
def place_of(pages: Pages, session: int, seq: int) -> int:
    """Where a step of a session is held; -1 if it is not."""
    size = pages.counts[0]["page"]
    page = pages.ring[session, (seq // size) % pages.ring.shape[1]]
    place: int = page * size + seq % size
    return place if page != _NO_PAGE and pages.held[place] else -1


@compiled
def place_for(pages: Pages, session: int, seq: int) -> int:
    """Where a step of a session is to be held from now on; takes a page if there is none."""
    size = pages.counts[0]["page"]
    entry = (seq // size) % pages.ring.shape[1]
    page = pages.ring[session, entry]
    if page == _NO_PAGE:
        page = _take_page(pages)
        pages.ring[session, entry] = page
    place: int = page * size + seq % size
    pages.held[place] = True
    return place


@compiled
def count_held(pages: Pages, session: int, first: int, end: int) -> int:
    """How many steps from `first` up to `end` are held."""
    count = 0
    for seq in range(first, end):
        count += place_of(pages, session, seq) >= 0
    return count


@compiled
def let_go(pages: Pages, session: int, first: int, end: int, next_seq: int) -> None:
    """Frees the pages of the steps from `first` up to `end`; the page that holds `end` too if no later step was answered."""
    size = pages.counts[0]["page"]
    last = -(-end // size) if end == next_seq else end // size
    for number in range(first // size, last):
        entry = number % pages.ring.shape[1]
        page = pages.ring[session, entry]
        if page != _NO_PAGE:
            pages.ring[session, entry] = _NO_PAGE
            pages.free[pages.counts[0]["free"]] = page
            pages.counts[0]["free"] += 1


@compiled
def find_places(pages: Pages, session: int, first: int, places: Ints) -> None:
    """Writes the places of consecutive steps."""
    for step in range(len(places)):
        places[step] = place_of(pages, session, first + step)


@compiled
def find_all_places(pages: Pages, sessions: Ints, firsts: Ints, ends: Ints, places: Ints) -> None:
    """Writes the places of consecutive steps of each session, [first, end), one session behind the other."""
    at = 0
    for index in range(len(sessions)):
        for seq in range(firsts[index], ends[index]):
            places[at] = place_of(pages, sessions[index], seq)
            at += 1


@compiled
def make_places(pages: Pages, session: int, seqs: Ints, places: Ints) -> None:
    """Writes the places where steps are held from now on."""
    for index in range(len(seqs)):
        places[index] = place_for(pages, session, seqs[index])


@compiled
def _take_page(pages: Pages) -> int:
    """Takes a free page and empties it; `make_room` has seen to it that there is one."""
    counts = pages.counts[0]
    counts["free"] -= 1
    page: int = pages.free[counts["free"]]
    pages.held[page * counts["page"] : (page + 1) * counts["page"]] = False
    return page


def _power_of_two_at_most(number: int) -> int:
    return 1 << (number.bit_length() - 1)
