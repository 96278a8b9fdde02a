"""`stepstream.Client`, blocking."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, Unpack, overload

from numpy.typing import NDArray

import stepstream
from stepstream._errors import ConnectionLost, InvalidArgument
from stepstream._events import ConnectionEvent
from stepstream._models import ModelInfo, SessionInfo
from stepstream._options import ClientOptions
from stepstream._rollout import Sampling
from stepstream._session import move
from stepstream._stream.calls import Outputs
from stepstream._stream.ledger import OnLag
from stepstream._tensors import Values
from stepstream.sync._session import Rollout, Session, SessionGroup
from stepstream.sync._thread import Blocking


class Draining:
    """Whether a server of the client is about to stop, as a condition: `if client.draining: ...`, or as something to wait for."""

    def __init__(self, blocking: Blocking, client: stepstream.Client) -> None:
        self._blocking = blocking
        self._client = client

    def is_set(self) -> bool:
        """Whether it is so now."""
        return self._client.draining.is_set()

    __bool__ = is_set

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until it is so, at most `timeout` seconds. Returns whether it is so."""
        return self._blocking.run(self._wait(timeout))

    async def _wait(self, timeout: float | None) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._client.draining.wait()
        return self.is_set()


class Client:
    """A connection to one server: as `stepstream.Client`, blocking. All methods may be called from any thread.

    It connects with its first call, so a notebook may use it without `with`. It is closed by `with`, by `close`, when nothing
    refers to it any more, or at the interpreter's exit.
    """

    def __init__(self, address: str, options: ClientOptions | None = None) -> None:
        self._client = stepstream.Client(address, options)
        self._blocking = Blocking(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """As `stepstream.Client.close`; for good. Calls of other threads that still wait raise ConnectionLost."""
        self._blocking.close()

    @property
    def draining(self) -> Draining:
        """Whether a server that the client's sessions are held at is about to stop: finish or move what is under way. It can be
        waited for, as `stepstream.Client.draining`."""
        return Draining(self._blocking, self._client)

    @property
    def connected(self) -> bool:
        """As `stepstream.Client.connected`."""
        return self._client.connected

    def events(self) -> Generator[ConnectionEvent, None, None]:
        """As `stepstream.Client.events`."""
        events = self._client.events()  # from now on

        def iterate() -> Generator[ConnectionEvent, None, None]:
            with suppress(ConnectionLost):  # by which calls of a client that is closed end
                yield from self._blocking.iterate(events)

        return iterate()

    # Models ----------------------------------------------------------------------------------------------------------

    def models(self) -> list[ModelInfo]:
        """As `stepstream.Client.models`."""
        return self._blocking.run(self._client.models())

    def model(self, name: str, version: int | None = None) -> ModelInfo:
        """As `stepstream.Client.model`."""
        return self._blocking.run(self._client.model(name, version))

    # Sessions that are held ------------------------------------------------------------------------------------------

    def open_session(
        self,
        model: str,
        *,
        version: int | None = None,
        id: str | None = None,
        idle_ttl: float | None = None,
        durable: bool = False,
        on_lag: OnLag = "wait",
        require_bitwise: bool = False,
    ) -> Session:
        """As `stepstream.Client.open_session`: `with client.open_session("ecg") as session` closes it in the end."""
        opening = self._client.open_session(
            model,
            version=version,
            id=id,
            idle_ttl=idle_ttl,
            durable=durable,
            on_lag=on_lag,
            require_bitwise=require_bitwise,
        )
        return self._session(opening)

    def open_sessions(
        self,
        model: str,
        count: int,
        *,
        version: int | None = None,
        ids: Sequence[str] | None = None,
        idle_ttl: float | None = None,
        durable: bool = False,
        on_lag: OnLag = "wait",
        require_bitwise: bool = False,
    ) -> SessionGroup:
        """As `stepstream.Client.open_sessions`."""
        opening = self._client.open_sessions(
            model,
            count,
            version=version,
            ids=ids,
            idle_ttl=idle_ttl,
            durable=durable,
            on_lag=on_lag,
            require_bitwise=require_bitwise,
        )
        return self._group(opening)

    def attach_session(
        self,
        model: str,
        id: str,
        secret: bytes,
        *,
        version: int | None = None,
        acked: int | None = None,
        on_lag: OnLag = "wait",
        require_bitwise: bool = False,
    ) -> Session:
        """As `stepstream.Client.attach_session`."""
        attaching = self._client.attach_session(
            model, id, secret, version=version, acked=acked, on_lag=on_lag, require_bitwise=require_bitwise
        )
        return self._session(attaching)

    def move(self, sessions: Iterable[Session], *, to: Client) -> None:
        """As `stepstream.Client.move`, except that calls of other threads which have no answer by then raise SessionMoved: they
        were not applied."""
        leaving = list(sessions)
        for place, session in enumerate(leaving):
            if session._at[0] not in (self._blocking, to._blocking):
                raise InvalidArgument(f"sessions[{place}]: expected one of this client, got one of another")
        self._blocking.run(self._move([each for each in leaving if each._at[0] is self._blocking], to))

    # Sessions as things ----------------------------------------------------------------------------------------------

    def get_session(self, model: str, id: str, *, version: int | None = None) -> SessionInfo:
        """As `stepstream.Client.get_session`."""
        return self._blocking.run(self._client.get_session(model, id, version=version))

    def list_sessions(
        self, model: str | None = None, *, version: int | None = None, page_size: int = 1000
    ) -> Generator[SessionInfo, None, None]:
        """As `stepstream.Client.list_sessions`."""
        return self._blocking.iterate(self._client.list_sessions(model, version=version, page_size=page_size))

    def close_session(self, model: str, id: str, *, secret: bytes | None = None, version: int | None = None) -> int:
        """As `stepstream.Client.close_session`."""
        return self._blocking.run(self._client.close_session(model, id, secret=secret, version=version))

    def step(
        self,
        model: str,
        id: str,
        values: Values,
        *,
        seq: int | None = None,
        secret: bytes | None = None,
        version: int | None = None,
        open: bool = False,
        idle_ttl: float | None = None,
    ) -> Outputs:
        """As `stepstream.Client.step`."""
        step = self._client.step(model, id, values, seq=seq, secret=secret, version=version, open=open, idle_ttl=idle_ttl)
        return self._blocking.run(step)

    @overload
    def generate(  # type: ignore[overload-overlap]
        self,
        model: str,
        prompt: str,
        *,
        id: str | None = None,
        secret: bytes | None = None,
        version: int | None = None,
        **sampling: Unpack[Sampling],
    ) -> Rollout[str]: ...
    @overload
    def generate(
        self,
        model: str,
        prompt: None,
        *,
        id: str | None = None,
        secret: bytes | None = None,
        version: int | None = None,
        **sampling: Unpack[Sampling],
    ) -> Rollout[Any]: ...
    @overload
    def generate(
        self,
        model: str,
        prompt: Values,
        *,
        id: str | None = None,
        secret: bytes | None = None,
        version: int | None = None,
        **sampling: Unpack[Sampling],
    ) -> Rollout[NDArray[Any]]: ...
    def generate(
        self,
        model: str,
        prompt: Values | None,
        *,
        id: str | None = None,
        secret: bytes | None = None,
        version: int | None = None,
        **sampling: Unpack[Sampling],
    ) -> Rollout[Any]:
        """As `stepstream.Client.generate`."""
        rollout = self._client.generate(model, prompt, id=id, secret=secret, version=version, **sampling)
        return Rollout(self._blocking, rollout)

    @overload
    def fork_session(
        self,
        model: str,
        id: str,
        count: None = None,
        *,
        secret: bytes | None = None,
        at: int | None = None,
        ids: Sequence[str] | None = None,
        version: int | None = None,
    ) -> Session: ...
    @overload
    def fork_session(
        self,
        model: str,
        id: str,
        count: int,
        *,
        secret: bytes | None = None,
        at: int | None = None,
        ids: Sequence[str] | None = None,
        version: int | None = None,
    ) -> SessionGroup: ...
    def fork_session(
        self,
        model: str,
        id: str,
        count: int | None = None,
        *,
        secret: bytes | None = None,
        at: int | None = None,
        ids: Sequence[str] | None = None,
        version: int | None = None,
    ) -> Session | SessionGroup:
        """As `stepstream.Client.fork_session`."""
        if count is None:
            fork = self._client.fork_session(model, id, secret=secret, at=at, ids=ids, version=version)
            return self._session(fork)
        return self._group(self._client.fork_session(model, id, count, secret=secret, at=at, ids=ids, version=version))

    def export_session(
        self,
        model: str,
        id: str,
        *,
        secret: bytes | None = None,
        at: int | None = None,
        close: bool = False,
        version: int | None = None,
    ) -> bytes:
        """As `stepstream.Client.export_session`."""
        return self._blocking.run(self._client.export_session(model, id, secret=secret, at=at, close=close, version=version))

    def import_session(
        self,
        snapshot: bytes,
        *,
        id: str | None = None,
        acked: int | None = None,
        durable: bool = False,
        on_lag: OnLag = "wait",
        require_bitwise: bool = False,
    ) -> Session:
        """As `stepstream.Client.import_session`."""
        importing = self._client.import_session(
            snapshot, id=id, acked=acked, durable=durable, on_lag=on_lag, require_bitwise=require_bitwise
        )
        return self._session(importing)

    async def _move(self, leaving: Sequence[Session], to: Client) -> None:
        connections = (each._session._connection for each in leaving)
        await move(leaving, lambda session: session._move(to._blocking, to._client), connections)

    def _session(self, opening: Awaitable[stepstream.Session]) -> Session:
        return Session(self._blocking, self._blocking.run(opening))

    def _group(self, opening: Awaitable[stepstream.SessionGroup]) -> SessionGroup:
        return SessionGroup(self._blocking, self._blocking.run(opening))
