"""Where sessions' states live: a slot-major float32 pool in memory, and the list of its free rows. Knows no runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import Ints, Tensor
from stepstream_server.errors import CallerError, Reason, ServerFault
from stepstream_server.spec import StateSpec

Rows = NDArray[np.float32]


class SlotList:
    """Which slots are free. Released ones are handed out again before fresh ones, so that memory stays as small as it can."""

    def __init__(self, slots: int) -> None:
        self._released = np.empty(slots, np.int64)  # a stack, `_top` high
        self._top = 0
        self._fresh = 0  # slots from here on were never handed out
        self._taken = np.zeros(slots, np.bool_)

    def __len__(self) -> int:
        return self._taken.size

    @property
    def free(self) -> int:
        """Slots that can still be taken."""
        return self._top + self._taken.size - self._fresh

    def allocate(self, count: int) -> tuple[Ints, int]:
        """`count` slots, and how many of them, at the front, were in use before. Raises CallerError(SESSION_CAPACITY)."""
        if count > self.free:
            raise CallerError(Reason.SESSION_CAPACITY, f"{count} slots wanted, {self.free} of {len(self)} free")
        used = min(count, self._top)
        fresh = np.arange(self._fresh, self._fresh + count - used)
        slots = np.concatenate([self._released[self._top - used : self._top][::-1], fresh])
        self._top -= used
        self._fresh += fresh.size
        self._taken[slots] = True
        return slots, used

    def release(self, slots: Ints) -> None:
        """Gives slots back. Raises ServerFault if one is free already: two sessions would come to share it."""
        if np.unique(slots).size != slots.size or not self._taken[slots].all():
            raise ServerFault(Reason.ENGINE_FAILED, "a slot was released that is not allocated")
        self._taken[slots] = False
        self._released[self._top : self._top + slots.size] = slots
        self._top += slots.size


class StatePool:
    """States of all slots as one array [slots, elements], a slot's states side by side in the spec's order."""

    def __init__(self, states: Sequence[StateSpec], slots: int) -> None:
        self._states = tuple(states)
        self._free = SlotList(slots)
        # Zeros straight from the system: a slot costs memory only once it is written.
        self.rows: Rows = np.zeros((slots, sum(state.elements for state in states)), np.float32)

    def __len__(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> Ints:
        """Takes `count` zeroed slots. Raises CallerError(SESSION_CAPACITY) if there are not as many; then takes none."""
        slots, used = self._free.allocate(count)
        self.rows[slots[:used]] = 0.0
        return slots

    def release(self, slots: Ints) -> None:
        """Gives slots back. Raises ServerFault if one was not allocated."""
        self._free.release(slots)

    def zero(self, slots: Ints) -> None:
        """Puts slots to the initial state."""
        self.rows[slots] = 0.0

    def copy(self, sources: Ints, targets: Ints) -> None:
        """Copies states between slots."""
        self.rows[targets] = self.rows[sources]

    def read(self, slots: Ints) -> dict[str, Tensor]:
        """States by name, [len(slots), *shape] float32, copies."""
        return unpack(self._states, self.rows[slots])

    def write(self, slots: Ints, states: dict[str, Tensor]) -> None:
        """The reverse of `read`. Raises CallerError(INVALID_ARGUMENT) naming the state that does not fit."""
        self.rows[slots] = pack(self._states, states, len(slots))


def unpack(states: Sequence[StateSpec], rows: Rows) -> dict[str, Tensor]:
    """[n, elements] -> each state by name, [n, *shape], copies."""
    ends = np.cumsum([state.elements for state in states])
    parts = np.split(rows, ends[:-1], axis=1)
    return {state.name: part.reshape(len(rows), *state.shape).copy() for state, part in zip(states, parts, strict=True)}


def pack(states: Sequence[StateSpec], values: dict[str, Tensor], count: int) -> Rows:
    """The reverse of `unpack` for `count` rows. Raises CallerError(INVALID_ARGUMENT) naming the state that does not fit."""
    names = {state.name for state in states}
    if values.keys() != names:
        odd = sorted(values.keys() ^ names)
        message = f"states: expected {sorted(names)}, got {sorted(values)}"
        raise CallerError(Reason.INVALID_ARGUMENT, message, field=f"states.{odd[0]}")
    for state in states:
        shape = (count, *state.shape)
        if values[state.name].shape != shape:
            message = f"state {state.name}: expected shape {list(shape)}, got {list(values[state.name].shape)}"
            raise CallerError(Reason.INVALID_ARGUMENT, message, field=f"states.{state.name}")
    parts = [values[state.name].reshape(count, -1) for state in states]
    return np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")
