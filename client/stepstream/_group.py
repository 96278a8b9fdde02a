"""Many sessions of one model, stepped by one call: one message, one future, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from stepstream._calls import Call, Keep, Outputs, Row
from stepstream._closing import ClosesOnLeaving
from stepstream._connection import Connection
from stepstream._ledger import Ledger
from stepstream._models import ModelInfo
from stepstream._rows import RowLimits
from stepstream._session import Session, WhichOutputs, keep_of
from stepstream._tensors import Values, pack

if TYPE_CHECKING:
    from stepstream._session_calls import SessionCalls


class SessionGroup(Sequence[Session], ClosesOnLeaving):
    """N sessions of one model, in a fixed order. `group[i]` is a session like any other.

    If some of them fail, a call raises GroupError once all have their outcome: it says who failed and why, and holds the
    outputs of the others, whose states have moved on. Cancelling a call works as for a session.
    """

    def __init__(
        self, connection: Connection, ledgers: Sequence[Ledger], model: ModelInfo, limits: RowLimits, calls: SessionCalls
    ) -> None:
        self._connection = connection
        self._ledgers = ledgers
        self._limits = limits
        self._sessions = [Session(connection, ledger, model, limits, calls) for ledger in ledgers]
        self.model = model

    async def step(self, values: Values, *, timeout: float | None = None) -> Outputs:
        """Applies one step to each session. values: [N, *shape], or such arrays by name. Returns arrays [N, *shape] by name.

        timeout: as for a session's step; those without an outcome by then fail with DeadlineExceeded.
        """
        _, inputs = pack(self.model, values, (len(self),))
        return await self._submit(inputs, 1, Keep.ALL, None, timeout)

    async def chunk(self, values: Values, outputs: WhichOutputs = "all", *, timeout: float | None = None) -> Outputs:
        """Applies T consecutive steps to each session. values: [N, T, *shape], or such arrays by name. Returns arrays by name:
        [N, T, *shape] for "all", [N, 1, *shape] for "last", [N, 0, *shape] for "none". timeout: as for `step`."""
        keep = keep_of(outputs)
        (_, steps), inputs = pack(self.model, values, (len(self), None))
        return await self._submit(inputs, steps, keep, keep.of(steps), timeout)

    async def reset(self) -> None:
        """Puts every session back to its initial state, in order with its steps."""
        call = Call(self.model, len(self), 0, steps=0, sessions=len(self))
        for index, ledger in enumerate(self._ledgers):
            ledger.submit(Row(call, index, 0, 1, Keep.NONE, None))
        await call.future

    async def close(self) -> None:
        """Closes the sessions at the server; those that have ended are passed over."""
        await self._connection.leave(self._ledgers, close=True)

    async def detach(self) -> None:
        """Lets the sessions go without closing them."""
        await self._connection.leave(self._ledgers, close=False)

    async def _submit(self, inputs: Sequence[bytes], steps: int, keep: Keep, axis: int | None, timeout: float | None) -> Outputs:
        count, per_session = len(self), keep.of(steps)
        parts = self._limits.cut(steps, keep)
        call = Call(self.model, count * len(parts), count * per_session, steps=axis, sessions=count)
        call.limit(timeout)
        first = 0
        for length, part in parts:
            places = first if part is Keep.ALL else 0
            rows = [
                Row(call, index, index * per_session + places, length, part, inputs, index * steps + first)
                for index in range(count)
            ]
            if len(parts) > 1 or not self._send_at_once(rows, inputs):
                for ledger, row in zip(self._ledgers, rows, strict=True):
                    ledger.submit(row)
            first += length
        return await call.future

    def _send_at_once(self, rows: Sequence[Row], inputs: Sequence[bytes]) -> bool:
        """The usual case, without a slice of the inputs per session: nobody has to wait and all fit into one message."""
        if not all(ledger.clear_for(row) for ledger, row in zip(self._ledgers, rows, strict=True)):
            return False
        return self._connection.outbox.put_rows(self._ledgers, rows, inputs)

    def __len__(self) -> int:
        return len(self._sessions)

    @overload
    def __getitem__(self, index: int) -> Session: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Session]: ...
    def __getitem__(self, index: int | slice) -> Session | Sequence[Session]:
        return self._sessions[index]

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions)

    def __repr__(self) -> str:
        return f"<SessionGroup of {len(self)} sessions of {self.model.name!r}>"
