"""One stream's handles: which session each stands for, and how many outcomes it still waits for.

Dense arrays indexed by handle, so that a block of a thousand rows is looked up in a few array operations. The table grows with
the largest handle in use and is bounded. A single row is looked up without indexing by an array: that would let go of the
interpreter lock for a moment, and getting it back from a busy engine costs 40 us.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import Ints, Opened
from stepstream_server.errors import CallerError, Reason

FREE = 0
WAITING = -1  # asked for by Open or Attach, not yet answered
LEAVING = -2  # Detach asked for, not yet confirmed

_FIRST_SIZE = 16  # handles that an ordinary stream has room for before it grows: 0.5 KB


class Handles:
    """Owners are small numbers of the stream's own, from 1, one per model that it uses; 0 and below: no session."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._owners: Ints = np.zeros(_FIRST_SIZE, np.int64)
        self._sessions: Ints = np.zeros(_FIRST_SIZE, np.int64)
        self._generations: Ints = np.zeros(_FIRST_SIZE, np.int64)
        self._outstanding: Ints = np.zeros(_FIRST_SIZE, np.int64)  # outcomes that will arrive, in steps

    def reserve(self, handle: int) -> None:
        """Takes a free handle for a session that is being opened or attached.

        Raises CallerError(HANDLE_IN_USE), or CallerError(INVALID_ARGUMENT) for a handle beyond the limit.
        """
        if handle >= self._limit:
            raise CallerError(
                Reason.INVALID_ARGUMENT, f"handles: expected numbers below {self._limit}, got {handle}", field="handles"
            )
        if handle >= len(self._owners):
            self._grow(handle + 1)
        if self._owners[handle] != FREE:
            raise CallerError(Reason.HANDLE_IN_USE, f"handles: {handle} already stands for a session", field="handles")
        self._owners[handle] = WAITING

    def bind(self, handle: int, owner: int, opened: Opened) -> None:
        """Makes a reserved handle stand for a session."""
        self._owners[handle] = owner
        self._sessions[handle] = opened.session
        self._generations[handle] = opened.generation

    def leave(self, handles: NDArray[np.uint32]) -> None:
        """Marks handles that stand for sessions as leaving."""
        self._owners[handles] = LEAVING

    def free(self, handle: int) -> int:
        """Gives a handle back. Returns how many steps of outcomes will not arrive any more."""
        self._owners[handle] = FREE
        settled = int(self._outstanding[handle])
        self._outstanding[handle] = 0
        return settled

    def stands(self, handle: int) -> bool:
        """Whether the handle stands for a session, if only until its detach is confirmed."""
        return handle < len(self._owners) and (self._owners[handle] > FREE or self._owners[handle] == LEAVING)

    def common_owner(self, handles: NDArray[np.uint32]) -> int:
        """The owner of all of these handles (at least one), 0 or below if there is not one owner of all."""
        owners = self.owners(handles)
        return int(owners[0]) if (owners == owners[0]).all() else FREE

    def owner(self, handle: int) -> int:
        """The same of one handle."""
        owner: int = self._owners.item(handle) if handle < len(self._owners) else FREE
        return owner

    def session(self, handle: int) -> tuple[int, int]:
        """Session index and generation of one that stands for one."""
        return self._sessions.item(handle), self._generations.item(handle)

    def owners(self, handles: NDArray[np.uint32]) -> Ints:
        """Owner of each handle, 0 or below where it stands for no session."""
        try:
            return self._owners[handles]
        except IndexError:
            size = len(self._owners)
            return np.where(handles < size, self._owners[np.minimum(handles, size - 1)], FREE)

    def sessions(self, handles: NDArray[np.uint32]) -> tuple[Ints, Ints]:
        """Session index and generation of handles that stand for one."""
        return self._sessions[handles], self._generations[handles]

    def expect(self, handles: NDArray[np.uint32], steps: Ints) -> None:
        """Remembers that outcomes of so many steps will arrive. A handle may occur more than once."""
        np.add.at(self._outstanding, handles, steps)

    def expect_one(self, handle: int, steps: int) -> None:
        """The same of one handle."""
        self._outstanding[handle] += steps

    def settle(self, handles: Ints, steps: Ints) -> int:
        """Takes outcomes that arrived. Returns how many of the steps were expected: kept answers sent again were not."""
        outstanding = self._outstanding
        np.subtract.at(outstanding, handles, steps)
        excess = 0
        if (outstanding[handles] < 0).any():
            over = np.unique(handles[outstanding[handles] < 0])
            excess = -int(outstanding[over].sum())
            outstanding[over] = 0
        return int(steps.sum()) - excess

    def settle_one(self, handle: int, steps: int) -> int:
        """Takes outcomes of one handle. Returns how many of the steps were expected."""
        left: int = self._outstanding.item(handle)
        settled = min(left, steps)
        self._outstanding[handle] = left - settled
        return settled

    def _grow(self, size: int) -> None:
        """At least doubles the table, so that growing costs O(1) per handle over time."""
        size = max(size, 2 * len(self._owners))
        self._owners = _grown(self._owners, size)
        self._sessions = _grown(self._sessions, size)
        self._generations = _grown(self._generations, size)
        self._outstanding = _grown(self._outstanding, size)


def _grown(column: Ints, size: int) -> Ints:
    """Longer by zeros, whose memory the system provides when they are written: one large handle alone costs a page."""
    grown = np.zeros(size, np.int64)
    grown[: len(column)] = column
    return grown
