"""A backend whose arithmetic anybody can redo by hand, and that a test can hold, poison and break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stepstream_server.engine.ports import Computed, Ints, Tensor
from stepstream_server.errors import CallerError, Reason
from stepstream_server.spec import CellModel, CellSpec, HeadSpec, ModelSpec, StateSpec, TensorSpec


def counter_spec(name: str = "counter") -> ModelSpec:
    """A model of one number in and two out: the running sum of its inputs, and how many there were. Rolled out, it doubles."""
    return ModelSpec(
        name=name,
        version=1,
        inputs=(TensorSpec("x", "float32", (1,)),),
        outputs=(TensorSpec("sum", "float32", (1,)), TensorSpec("count", "float32", (1,))),
        states=(StateSpec("last.sum", (1,)), StateSpec("count", (1,))),
        computation=CellModel(CellSpec("rnn", 1, 1, 1)),
        heads=(HeadSpec("sum", "regression", 1, predicts="x"), HeadSpec("count", "regression", 1)),
        fingerprint="0" * 64,
    )


def faults_of(finite: NDArray[np.bool_], failed: NDArray[np.bool_] | Literal[False] = False) -> Ints:
    """The faults of rows [batch], by whether their outputs are finite and whether the model raised an error."""
    return np.where(failed, Reason.MODEL_FAILED, np.where(finite, 0, Reason.NON_FINITE_STATE))


DEFAULT_DEPTH = 1  # of backends that say nothing else; engine tests run with 2 as well


@dataclass
class FakeBackend:
    """Adds up. A state or output that is not finite is not applied, as the port demands."""

    slots: int = 64
    max_batch: int = 1024
    depth: int = field(default_factory=lambda: DEFAULT_DEPTH)  # launches that may be under way at once
    state_bytes: int = 8
    numerics: str = "by hand"
    batching: int = 1
    poison: float = float("nan")  # the input that makes its step's sum non-finite, though it is a number itself
    venom: float = float("nan")  # the input at which the model raises an error
    before_launch: Callable[[], None] = lambda: None  # called when a launch is cut and has not begun
    before_collect: Callable[[], None] = lambda: None  # called while a launch is "computing"
    launches: list[tuple[int, int]] = field(default_factory=list)  # (batch, length) of each launch

    def __post_init__(self) -> None:
        self.states = np.zeros((self.slots, 2), np.float32)
        self.free = list(range(self.slots - 1, -1, -1))
        self.broken = False

    def warm_up(self) -> None:
        """Nothing to warm."""

    def allocate(self, count: int) -> Ints:
        if count > len(self.free):
            raise CallerError(Reason.SESSION_CAPACITY, f"expected {count} free slots, got {len(self.free)}")
        slots = np.array([self.free.pop() for _ in range(count)], np.int64)
        self.zero(slots)
        return slots

    def release(self, slots: Ints) -> None:
        self.free.extend(slots.tolist())

    def zero(self, slots: Ints) -> None:
        self.states[slots] = 0

    def copy(self, sources: Ints, targets: Ints) -> None:
        self.states[targets] = self.states[sources]

    def read(self, slots: Ints) -> dict[str, Tensor]:
        return {"last.sum": self.states[slots, :1].copy(), "count": self.states[slots, 1:].copy()}

    def write(self, slots: Ints, states: dict[str, Tensor]) -> None:
        self.states[slots] = np.concatenate([states["last.sum"], states["count"]], axis=1)

    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Any:
        self.before_launch()
        if self.broken:
            raise RuntimeError("the device fell off the bus")
        if len(set(slots.tolist())) != len(slots):
            raise AssertionError(f"slots twice in one launch: {slots}")
        self.launches.append((len(slots), length))
        values = np.where(inputs[0][..., 0] == self.poison, np.float32(np.inf), inputs[0][..., 0])
        steps = np.stack([values, np.ones((len(slots), length), np.float32)], axis=-1)
        failed = (inputs[0][..., 0] == self.venom).any(axis=1)
        return slots, self.states[slots][:, None] + np.cumsum(steps, axis=1, dtype=np.float32), failed

    def collect(self, ticket: Any) -> Computed:
        self.before_collect()
        slots, sums, failed = ticket  # sums: [batch, length, 2]
        faults = faults_of(np.isfinite(sums).all(axis=(1, 2)), failed)
        self.states[slots[faults == 0]] = sums[faults == 0, -1]
        return Computed((sums[..., :1], sums[..., 1:]), faults if faults.any() else None)
