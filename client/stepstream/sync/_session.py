"""`stepstream.Session`, blocking."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence, Sized
from types import TracebackType
from typing import TYPE_CHECKING, Self, overload

import numpy as np
from numpy.typing import NDArray

import stepstream
from stepstream._calls import Outputs
from stepstream._models import ModelInfo
from stepstream._rollout_request import Commit, Stop
from stepstream._session import WhichOutputs
from stepstream._tensors import Values
from stepstream.sync._rollout import Rollout

if TYPE_CHECKING:
    from stepstream.sync._client import Client
    from stepstream.sync._group import SessionGroup


class Session:
    """A session of one model: as `stepstream.Session`, blocking. Calls of several threads are applied in the order in which they
    begin."""

    def __init__(self, client: Client, session: stepstream.Session) -> None:
        self._client = client
        self._session = session

    @property
    def model(self) -> ModelInfo:
        """As `stepstream.Session.model`."""
        return self._session.model

    @property
    def bitwise(self) -> bool | None:
        """As `stepstream.Session.bitwise`."""
        return self._session.bitwise

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
        return self._client._run(self._session.step(values, timeout=timeout))

    def chunk(self, values: Values, outputs: WhichOutputs = "all", *, timeout: float | None = None) -> Outputs:
        """As `stepstream.Session.chunk`."""
        return self._client._run(self._session.chunk(values, outputs, timeout=timeout))

    def stream(self, readings: Iterable[Values]) -> Generator[Outputs, None, None]:
        """Applies a step for each reading and yields its outputs, in order.

        Readings that are all there (a list, an array: anything with a length) are sent ahead of the answers as far as the
        session's window reaches. Those of another iterator are taken by the calling thread, each after the answer before it:
        so a reading that has to be waited for holds no answer up, and the wait can be interrupted.
        """
        if isinstance(readings, Sized):
            yield from self._client._iterate(self._session.stream(readings))
        else:
            for reading in readings:
                yield self.step(reading)

    def generate(
        self,
        prompt: Values | None = None,
        *,
        max_steps: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.0,
        greedy: bool = False,
        stop: Stop = (),
        seed: int | None = None,
        commit: Commit = "end",
    ) -> Rollout:
        """As `stepstream.Session.generate`."""
        rollout = self._session.generate(
            prompt,
            max_steps=max_steps,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            greedy=greedy,
            stop=stop,
            seed=seed,
            commit=commit,
        )
        return Rollout(self._client, rollout)

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
        forecast = self._session.forecast(horizon, paths=paths, levels=levels, temperature=temperature, seed=seed, prompt=prompt)
        return self._client._run(forecast)

    def reset(self) -> None:
        """As `stepstream.Session.reset`."""
        self._client._run(self._session.reset())

    @overload
    def fork(self, count: None = None, *, at: int | None = None, ids: Sequence[str] | None = None) -> Session: ...
    @overload
    def fork(self, count: int, *, at: int | None = None, ids: Sequence[str] | None = None) -> SessionGroup: ...
    def fork(
        self, count: int | None = None, *, at: int | None = None, ids: Sequence[str] | None = None
    ) -> Session | SessionGroup:
        """As `stepstream.Session.fork`."""
        if count is None:
            return Session(self._client, self._client._run(self._session.fork(at=at, ids=ids)))
        return self._client._group(self._session.fork(count, at=at, ids=ids))

    def export(self, *, at: int | None = None, close: bool = False) -> bytes:
        """As `stepstream.Session.export`."""
        return self._client._run(self._session.export(at=at, close=close))

    def close(self) -> None:
        """As `stepstream.Session.close`."""
        self._client._run(self._session.close())

    def detach(self) -> None:
        """As `stepstream.Session.detach`."""
        self._client._run(self._session.detach())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._client._run(self._session.__aexit__(kind, error, traceback))

    def __repr__(self) -> str:
        return repr(self._session)
