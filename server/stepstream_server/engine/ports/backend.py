"""The backend port: what computes a batch, in two calls, so that a host can prepare the next one while a device computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from stepstream_server.engine.ports.basics import Ints, Tensor


@dataclass(frozen=True, slots=True)
class Computed:
    """The outcome of a launch. Sessions of which it says a fault keep the state they had."""

    outputs: tuple[Tensor, ...]  # one per declared output: [batch, length, *shape]
    # [batch]: the Reason, as a number, for which nothing was applied to a session: NON_FINITE_STATE where its new state or
    # outputs are not finite, MODEL_FAILED where the model raised an error; 0: all is applied. None: 0 for all of them.
    faults: Ints | None


class Backend(Protocol):
    """Owns a model's weights and the state pool; computes batches. Used only by whoever turns the engine, after warm-up."""

    @property
    def slots(self) -> int:
        """Rows of the state pool."""

    @property
    def state_bytes(self) -> int:
        """Bytes of one slot."""

    @property
    def max_batch(self) -> int:
        """Rows that one launch may have."""

    @property
    def depth(self) -> int:
        """Launches that may be under way before the oldest is collected: 1 where `launch` does all the work."""

    @property
    def batching(self) -> int:
        """Launches compute a multiple of so many rows, or results would depend on the batch; 0: one row per launch."""

    @property
    def numerics(self) -> str:
        """Names what bits of outputs depend on beside the model: versions, device, instruction set. Equal: bitwise the same."""

    def warm_up(self) -> None:
        """Runs every kind of batch once, on slots that no session has. Raises ServerFault if results are not as promised."""

    def allocate(self, count: int) -> Ints:
        """Takes `count` free slots, in the initial state.

        Raises CallerError(SESSION_CAPACITY) if there are not as many, and has then taken none.
        """

    def release(self, slots: Ints) -> None:
        """Gives slots back."""

    def zero(self, slots: Ints) -> None:
        """Puts slots to the initial state."""

    def copy(self, sources: Ints, targets: Ints) -> None:
        """Copies states between allocated slots."""

    def read(self, slots: Ints) -> dict[str, Tensor]:
        """States by name: [len(slots), *shape], of their dtypes, copies."""

    def write(self, slots: Ints, states: dict[str, Tensor]) -> None:
        """The reverse of `read`."""

    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Any:
        """Begins `length` steps of distinct slots. inputs: one per declared input, [batch, length, *shape]. Returns a ticket.

        One length for the whole batch: rows of different lengths are never padded together. `function` is "step".
        """

    def collect(self, ticket: Any) -> Computed:
        """Waits for a launch. Its new states are in the pool afterwards."""
