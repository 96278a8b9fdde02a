"""Where sessions' states live: a slot-major pool in memory, and the list of its free rows. Knows no runtime."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stepstream_server.engine.ports import Ints, Tensor
from stepstream_server.errors import BundleError, CallerError, Reason, ServerFault
from stepstream_server.programs.layout import Rows, StateRows, state_rows
from stepstream_server.spec import StateSpec


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
    """States of all slots, for each dtype as one array [slots, numbers]: a slot's states lie side by side as `layout` says."""

    def __init__(self, states: Sequence[StateSpec], slots: int) -> None:
        """Raises BundleError where the system does not even lend the addresses."""
        self._parts = state_rows(states)
        self._free = SlotList(slots)
        try:  # zeros straight from the system: a slot costs memory only once it is written
            self.rows: list[Rows] = [np.zeros((slots, part.elements), part.dtype) for part in self._parts]
        except MemoryError as error:
            raise BundleError(
                f"engine.capacity: expected states that fit into memory, got {slots} sessions and paths of rollouts: {error}"
            ) from None
        self._initial = [part.initial for part in self._parts]
        self._begins_at_zero = not any(initial.any() for initial in self._initial)

    def __len__(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> Ints:
        """Takes `count` slots in the initial state. Raises CallerError(SESSION_CAPACITY) if there are not as many; then takes
        none."""
        slots, used = self._free.allocate(count)
        self.zero(slots[:used] if self._begins_at_zero else slots)
        return slots

    def release(self, slots: Ints) -> None:
        """Gives slots back. Raises ServerFault if one was not allocated."""
        self._free.release(slots)

    def zero(self, slots: Ints) -> None:
        """Puts slots to the initial state."""
        for rows, initial in zip(self.rows, self._initial, strict=True):
            rows[slots] = initial

    def copy(self, sources: Ints, targets: Ints) -> None:
        """Copies states between slots."""
        for rows in self.rows:
            rows[targets] = rows[sources]

    def read(self, slots: Ints) -> dict[str, Tensor]:
        """States by name, [len(slots), *shape] of their dtypes, copies."""
        return unpack(self._parts, [rows[slots] for rows in self.rows])

    def write(self, slots: Ints, states: dict[str, Tensor]) -> None:
        """The reverse of `read`. Raises CallerError(INVALID_ARGUMENT) naming the state that does not fit."""
        for rows, values in zip(self.rows, pack(self._parts, states, len(slots)), strict=True):
            rows[slots] = values


def unpack(parts: Sequence[StateRows], rows: Sequence[Rows]) -> dict[str, Tensor]:
    """For each dtype [n, numbers] -> each state by name, [n, *shape], copies."""
    states: dict[str, Tensor] = {}
    for part, values in zip(parts, rows, strict=True):
        ends = np.cumsum([state.elements for state in part.states])
        for state, piece in zip(part.states, np.split(values, ends[:-1], axis=1), strict=True):
            states[state.name] = piece.reshape(len(values), *state.shape).copy()
    return states


def pack(parts: Sequence[StateRows], values: dict[str, Tensor], count: int) -> list[Rows]:
    """The reverse of `unpack` for `count` rows. Raises CallerError(INVALID_ARGUMENT) naming the state that does not fit."""
    states = [state for part in parts for state in part.states]
    names = {state.name for state in states}
    if values.keys() != names:
        odd = sorted(values.keys() ^ names)
        message = f"states: expected {sorted(names)}, got {sorted(values)}"
        raise CallerError(Reason.INVALID_ARGUMENT, message, field=f"states.{odd[0]}")
    for state in states:
        shape, given = (count, *state.shape), values[state.name]
        if given.shape != shape or not np.can_cast(given.dtype, state.dtype, "same_kind"):
            message = f"state {state.name}: expected {state.dtype} {list(shape)}, got {given.dtype} {list(given.shape)}"
            raise CallerError(Reason.INVALID_ARGUMENT, message, field=f"states.{state.name}")
    return [
        np.concatenate(
            [values[state.name].reshape(count, -1) for state in part.states], axis=1, dtype=part.dtype, casting="same_kind"
        )
        for part in parts
    ]
