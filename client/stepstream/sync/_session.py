"""Sessions, groups of them and rollouts, blocking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence, Sized
from types import TracebackType
from typing import Any, Generic, Self, Unpack, overload

import numpy as np
from numpy.typing import NDArray

import stepstream
from stepstream._models import ModelInfo
from stepstream._rollout import Ending, PieceT, Sampling
from stepstream._session import WhichOutputs
from stepstream._stream.calls import Outputs
from stepstream._tensors import Values
from stepstream.sync._thread import Blocking, Result


class Rollout(Iterator[PieceT], Generic[PieceT]):
    """What is being generated: as `stepstream.Rollout`, blocking. A few pieces are taken ahead of their use."""

    def __init__(self, blocking: Blocking, rollout: stepstream.Rollout[PieceT]) -> None:
        self._rollout = rollout
        self._pieces = blocking.iterate(rollout)

    @property
    def seed(self) -> int:
        """As `stepstream.Rollout.seed`."""
        return self._rollout.seed

    @property
    def ending(self) -> Ending | None:
        """As `stepstream.Rollout.ending`."""
        return self._rollout.ending

    @property
    def next_seq(self) -> int | None:
        """As `stepstream.Rollout.next_seq`."""
        return self._rollout.next_seq

    def whole(self) -> PieceT:
        """As `stepstream.Rollout.whole`."""
        return self._rollout._joined(list(self))

    def close(self) -> None:
        """As `stepstream.Rollout.aclose`."""
        self._pieces.close()

    def __next__(self) -> PieceT:
        return next(self._pieces)


class Session:
    """A session of one model: as `stepstream.Session`, blocking. Calls of several threads are applied in the order in which they
    begin."""

    def __init__(self, blocking: Blocking, session: stepstream.Session) -> None:
        self._at = blocking, session  # replaced as one: a thread must not run the session on another one's loop

    @property
    def _session(self) -> stepstream.Session:
        return self._at[1]

    def _run(self, call: Callable[[stepstream.Session], Awaitable[Result]]) -> Result:
        blocking, session = self._at
        return blocking.run(call(session))

    @property
    def model(self) -> ModelInfo:
        """As `stepstream.Session.model`."""
        return self._session.model

    @property
    def bitwise(self) -> bool | None:
        """As `stepstream.Session.bitwise`."""
        return self._session.bitwise

    @property
    def durable(self) -> bool:
        """Tells whether it survives the death of its server, as `stepstream.Session.durable` does."""
        return self._session.durable

    @property
    def durable_seq(self) -> int:
        """Steps below this count survive it, as in `stepstream.Session.durable_seq`."""
        return self._session.durable_seq

    @property
    def epoch(self) -> int:
        """Counts how often it was restored, as `stepstream.Session.epoch` does."""
        return self._session.epoch

    @property
    def id(self) -> str:
        """As `stepstream.Session.id`."""
        return self._session.id

    @property
    def secret(self) -> bytes:
        """As `stepstream.Session.secret`."""
        return self._session.secret

    @property
    def next_seq(self) -> int:
        """As `stepstream.Session.next_seq`."""
        return self._session.next_seq

    @property
    def acked(self) -> int:
        """As `stepstream.Session.acked`."""
        return self._session.acked

    def step(self, values: Values, *, timeout: float | None = None) -> Outputs:
        """As `stepstream.Session.step`."""
        return self._run(lambda session: session.step(values, timeout=timeout))

    def chunk(self, values: Values, outputs: WhichOutputs = "all", *, timeout: float | None = None) -> Outputs:
        """As `stepstream.Session.chunk`."""
        return self._run(lambda session: session.chunk(values, outputs, timeout=timeout))

    def stream(self, readings: Iterable[Values]) -> Generator[Outputs, None, None]:
        """Applies a step for each reading and yields its outputs, in order.

        Readings that are all there (a list, an array: anything with a length) are sent ahead of the answers as far as the
        session's window reaches. Those of another iterator are taken by the calling thread, each after the answer before it:
        so a reading that has to be waited for holds no answer up, and the wait can be interrupted.
        """
        if isinstance(readings, Sized):
            blocking, session = self._at
            yield from blocking.iterate(session.stream(readings))
        else:
            for reading in readings:
                yield self.step(reading)

    @overload
    def generate(self, prompt: str, **sampling: Unpack[Sampling]) -> Rollout[str]: ...  # type: ignore[overload-overlap]
    @overload
    def generate(self, prompt: None = None, **sampling: Unpack[Sampling]) -> Rollout[Any]: ...
    @overload
    def generate(self, prompt: Values, **sampling: Unpack[Sampling]) -> Rollout[NDArray[Any]]: ...
    def generate(self, prompt: Values | None = None, **sampling: Unpack[Sampling]) -> Rollout[Any]:
        """As `stepstream.Session.generate`."""
        blocking, session = self._at
        return Rollout(blocking, session.generate(prompt, **sampling))

    def forecast(
        self,
        horizon: int,
        *,
        paths: int = 100,
        levels: Sequence[float] = (0.1, 0.5, 0.9),
        temperature: float = 1.0,
        seed: int | None = None,
        prompt: Values | None = None,
    ) -> NDArray[np.float32]:
        """As `stepstream.Session.forecast`."""
        return self._run(
            lambda session: session.forecast(
                horizon, paths=paths, levels=levels, temperature=temperature, seed=seed, prompt=prompt
            )
        )

    def reset(self) -> None:
        """As `stepstream.Session.reset`."""
        self._run(lambda session: session.reset())

    @overload
    def fork(self, count: None = None, *, at: int | None = None, ids: Sequence[str] | None = None) -> Session: ...
    @overload
    def fork(self, count: int, *, at: int | None = None, ids: Sequence[str] | None = None) -> SessionGroup: ...
    def fork(
        self, count: int | None = None, *, at: int | None = None, ids: Sequence[str] | None = None
    ) -> Session | SessionGroup:
        """As `stepstream.Session.fork`."""
        blocking, session = self._at
        if count is None:
            return Session(blocking, blocking.run(session.fork(at=at, ids=ids)))
        return SessionGroup(blocking, blocking.run(session.fork(count, at=at, ids=ids)))

    def export(self, *, at: int | None = None, close: bool = False) -> bytes:
        """As `stepstream.Session.export`."""
        return self._run(lambda session: session.export(at=at, close=close))

    def close(self) -> None:
        """As `stepstream.Session.close`."""
        self._run(lambda session: session.close())

    def detach(self) -> None:
        """As `stepstream.Session.detach`."""
        self._run(lambda session: session.detach())

    async def _move(self, blocking: Blocking, client: stepstream.Client) -> None:
        """Goes on at another client, on that one's loop. To be run on the loop where the session is."""
        here, session = self._at
        if here is blocking:
            return
        async with session._paused_first():
            answered = session.acked
            snapshot = await session._export()
            care = session._ledger.care
            importing = blocking.elsewhere(
                client.import_session(
                    snapshot,
                    id=session.id,
                    acked=answered,
                    durable=session.durable,
                    on_lag=care.on_lag,
                    require_bitwise=care.require_bitwise,
                )
            )
            copy = await session._unless_cancelled(importing, lambda copy: blocking.elsewhere(copy.close()))
            if reason := session._why_it_stays(None, answered):
                await blocking.elsewhere(copy.close())
                raise reason
            self._at = blocking, copy
            session._end_as_moved()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._run(lambda session: session.__aexit__(kind, error, traceback))

    def __repr__(self) -> str:
        return repr(self._session)


class SessionGroup(Sequence[Session]):
    """N sessions of one model, in a fixed order: as `stepstream.SessionGroup`, blocking."""

    def __init__(self, blocking: Blocking, group: stepstream.SessionGroup) -> None:
        self._sessions = [Session(blocking, each) for each in group]
        self._placed = [each._at for each in self._sessions]  # where `_home` has them
        self._home = blocking, group

    @property
    def model(self) -> ModelInfo:
        """As `stepstream.SessionGroup.model`."""
        return self._sessions[0].model

    def step(self, values: Values, *, timeout: float | None = None) -> Outputs:
        """As `stepstream.SessionGroup.step`."""
        return self._run(lambda group: group.step(values, timeout=timeout))

    def chunk(self, values: Values, outputs: WhichOutputs = "all", *, timeout: float | None = None) -> Outputs:
        """As `stepstream.SessionGroup.chunk`."""
        return self._run(lambda group: group.chunk(values, outputs, timeout=timeout))

    def reset(self) -> None:
        """As `stepstream.SessionGroup.reset`."""
        self._run(lambda group: group.reset())

    def close(self) -> None:
        """As `stepstream.SessionGroup.close`."""
        for blocking, group in self._homes():
            blocking.run(group.close())

    def detach(self) -> None:
        """As `stepstream.SessionGroup.detach`."""
        for blocking, group in self._homes():
            blocking.run(group.detach())

    def _run(self, call: Callable[[stepstream.SessionGroup], Awaitable[Result]]) -> Result:
        placed = [each._at for each in self._sessions]
        if placed != self._placed:  # some have been moved
            homes = self._homes()
            if len(homes) > 1:
                raise RuntimeError("some sessions of the group were moved to another client: move the others as well")
            self._home, self._placed = homes[0], placed
        blocking, group = self._home
        return blocking.run(call(group))

    def _homes(self) -> list[tuple[Blocking, stepstream.SessionGroup]]:
        """The sessions by the clients that have them now."""
        homes: dict[Blocking, list[stepstream.Session]] = {}
        for blocking, session in (each._at for each in self._sessions):
            homes.setdefault(blocking, []).append(session)
        return [(blocking, stepstream.SessionGroup(sessions)) for blocking, sessions in homes.items()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for blocking, group in self._homes():
            blocking.run(group.__aexit__(kind, error, traceback))

    def __len__(self) -> int:
        return len(self._sessions)

    @overload
    def __getitem__(self, index: int) -> Session: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Session]: ...
    def __getitem__(self, index: int | slice) -> Session | Sequence[Session]:
        return self._sessions[index]

    def __repr__(self) -> str:
        return f"<SessionGroup of {len(self)} sessions of {self.model.name!r}>"
