"""The client: one server, its models, and sessions that are held or named by id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack, overload
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from stepstream._errors import InvalidArgument, SessionEnded, SessionExists, SessionMoved
from stepstream._events import ConnectionEvent
from stepstream._models import ModelInfo, SessionInfo, model_info, session_info
from stepstream._options import ClientOptions
from stepstream._rollout import Course, Piece, Rollout, Sampling, ask, pieces
from stepstream._service import Service, one
from stepstream._session import Session, SessionGroup, cared_for, forked, grouped, move
from stepstream._stream.calls import Outputs
from stepstream._stream.connection import Draining
from stepstream._stream.ledger import Care, OnLag
from stepstream._tensors import (
    Array,
    Values,
    at_least_one,
    byte_string,
    duration,
    identifier,
    identifiers,
    pack,
    secret_bytes,
    step_count,
    version_number,
)
from stepstream_proto.v1 import inference_pb2, model_pb2, session_pb2

Opened = TypeVar("Opened", bound=AbstractAsyncContextManager[Any])


class Opening(Generic[Opened]):
    """An opening is either awaited, or entered with `async with`, which also closes in the end what was opened."""

    def __init__(self, open_it: Callable[[], Coroutine[Any, Any, Opened]]) -> None:
        self._open_it = open_it
        self._opened: Opened | None = None

    def __await__(self) -> Generator[Any, Any, Opened]:
        return self._open_it().__await__()

    async def __aenter__(self) -> Opened:
        self._opened = await self._open_it()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.__aexit__(kind, error, traceback)


class Client:
    """A connection to one server, to be used as a context manager. All methods raise errors of this package, and RuntimeError in
    another event loop than the one in which it was entered.

    A stream is opened with the first session. When it breaks, another takes its place: sessions are attached anew, what had
    no answer is sent again, and nobody notices but by the delay. Only after `ClientOptions.reconnect_seconds` without a server
    do the sessions end with ConnectionLost; the next one that is opened or attached begins anew. A server that has never answered
    is given up after `ClientOptions.connect_seconds`. All methods raise Unauthenticated where the server does not take the token
    that `ClientOptions` names; one in a file may be replaced at any time.

    address: HOST:PORT, or any other target of gRPC's; several IP addresses, `10.0.0.1:8101,10.0.0.2:8101`, of which the first one
    that answers is used. A name that stands for several hosts is tried likewise.
    """

    def __init__(self, address: str, options: ClientOptions | None = None) -> None:
        self._service = Service(address, options or ClientOptions())

    async def __aenter__(self) -> Self:
        self._service.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the stream. Sessions that were not closed stay open at the server until they expire."""
        await self._service.close()

    @property
    def draining(self) -> Draining:
        """Set while a server that the client's sessions are held at is about to stop: finish or move what is under way."""
        return self._service.draining

    @property
    def connected(self) -> bool:
        """Whether the server answers on a stream of this client; without sessions there is none."""
        return self._service.connected

    def events(self) -> AsyncGenerator[ConnectionEvent, None]:
        """Tells what becomes of the client's streams, from this call on and until it is closed: connects, losses, replays and
        drains. They are also logged, by the logger `stepstream`."""
        return self._service.journal.events()

    # Models ----------------------------------------------------------------------------------------------------------

    async def models(self) -> list[ModelInfo]:
        """Every model that is served."""
        response = await self._service.call(self._service.models.ListModels, model_pb2.ListModelsRequest())
        return [model_info(each) for each in response.models]

    async def model(self, name: str, version: int | None = None) -> ModelInfo:
        """One model. version: None is the newest served. Raises ModelNotFound."""
        return await self._service.get_model(name, version)

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
    ) -> Opening[Session]:
        """Opens a session: `async with client.open_session("ecg") as session`, or `session = await client.open_session("ecg")`.

        version: None is the newest served. id: None lets the server make one, else 1 to 128 characters of A-Z a-z 0-9 . _ : -.
        idle_ttl: seconds without a step after which the server closes it; None is the server's setting. Raises ModelNotFound,
        SessionExists, SessionCapacity, ServerDraining, ConnectionLost.

        durable: it survives the death of its server, which must have a store: whoever steps it notices a restart as a pause. A
        server may make sessions durable by itself. Raises NoStore, StoreUnavailable. on_lag: what to do where the store does not
        keep up: "wait" with further steps, or "serve", go on at the risk that a restart then loses some; events tell of it.
        require_bitwise: where it had to be restored from what other versions or another instruction set computed, it ends with
        NotBitwise.
        """
        care = cared_for(on_lag, require_bitwise)

        async def open_it() -> Session:
            ids = [] if id is None else [identifier("id", id)]
            opening = self._service.open_sessions(model, version, 1, ids, idle_ttl, durable, care)
            return grouped(await one(opening))[0]

        return Opening(open_it)

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
    ) -> Opening[SessionGroup]:
        """Opens `count` sessions to be stepped together, at most 10,000; otherwise as `open_session`. All or none: if some are
        refused, the others are closed and GroupError tells which. Raises InvalidArgument for a count below 1, or another number
        of ids."""
        at_least_one("count", count)
        names = [] if ids is None else identifiers("ids", ids, count)
        care = cared_for(on_lag, require_bitwise)

        async def open_them() -> SessionGroup:
            return grouped(await self._service.open_sessions(model, version, count, names, idle_ttl, durable, care))

        return Opening(open_them)

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
    ) -> Opening[Session]:
        """Takes an open session over, from whichever connection holds it.

        acked: the next step sent gets this number (a lost session's `acked`); steps that were applied already are answered as
        before and the state does not move again. None: go on behind all that was applied. on_lag, require_bitwise: as in
        `open_session`. Raises SessionNotFound, SecretMismatch and the other endings of a session; SessionLost for a durable one
        that stands at an earlier step than `acked`: with that as `acked`, which its `since` is, and the inputs from there on it
        goes on.
        """
        count, care = None if acked is None else step_count("acked", acked), cared_for(on_lag, require_bitwise)

        async def attach_it() -> Session:
            key = identifier("id", id), byte_string("secret", secret)
            attaching = self._service.attach(model, version_number(version), [key], count, care=care)
            return grouped(await one(attaching))[0]

        return Opening(attach_it)

    async def move(self, sessions: Iterable[Session], *, to: Client) -> None:
        """Has sessions of this client go on at another client's server: the same objects, under the same ids, from where they
        stand, to the bit where `bitwise` says so. Their secrets are new. Calls under way are part of it: what has no answer here
        is answered there, once. A rollout that commits ends first.

        A session that cannot be moved stays where it is; GroupError tells which, by place, once all have been tried. The other
        server must serve the same model with windows that are no smaller, and `to` must send messages that are no smaller.
        """
        leaving = list(sessions)
        for place, session in enumerate(leaving):
            if session._service not in (self._service, to._service):
                raise InvalidArgument(f"sessions[{place}]: expected one of this client, got one of another")
        to._service.check_open()
        await move(leaving, lambda session: session._move(to._service), (each._connection for each in leaving))

    # Sessions that are named by id: where a `secret` can be given, it is needed only while a stream holds the session -----

    async def get_session(self, model: str, id: str, *, version: int | None = None) -> SessionInfo:
        """Looks at an open session without touching it. Raises SessionNotFound or how it has ended."""
        return await self._service.get_session(model, id, version)

    async def list_sessions(
        self, model: str | None = None, *, version: int | None = None, page_size: int = 1000
    ) -> AsyncGenerator[SessionInfo, None]:
        """Every open session, of one model or of all (None), of one version or of all (None), in no particular order.

        page_size: sessions per call to the server, which sends at most 1,000 at once; the next call is made when they are used
        up. A session that is opened or closed meanwhile may be missing, none comes twice.
        """
        request = session_pb2.ListSessionsRequest(
            model="" if model is None else identifier("model", model),
            version=version_number(version),
            page_size=min(at_least_one("page_size", page_size), 1000),
        )
        while True:
            page = await self._service.call(self._service.sessions.ListSessions, request)
            for session in page.sessions:
                yield session_info(session)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def close_session(self, model: str, id: str, *, secret: bytes | None = None, version: int | None = None) -> int:
        """Closes a session. Returns the steps and resets that had been applied, 0 if it was closed already.

        Raises SessionInUse while a stream holds it and no secret is given, SecretMismatch, SessionNotFound.
        """
        request = session_pb2.CloseSessionRequest(
            model=identifier("model", model),
            version=version_number(version),
            id=identifier("id", id),
            secret=secret_bytes(secret),
        )
        return int((await self._service.call(self._service.sessions.CloseSession, request)).next_seq)

    async def step(
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
        """Applies one step to a session by a call of its own: values and result as those of `Session.step`. For a step now and
        then; a session that is held (`open_session`, `attach_session`) is stepped many times faster.

        seq: the step's number. With it, the same call made again is answered as before and does not move the state twice; it
        says too that all answers below have been received. None: the next free number; the answer is not kept, so that after
        an error of the connection nobody can tell whether the step was applied. open: opens the session first if it is not open;
        nobody holds it then, and of two callers that do so at once both succeed. idle_ttl: as in `open_session`, for that.
        """
        try:
            return await self._step(model, id, values, seq, secret, version)
        except SessionEnded as ended:
            if not open or isinstance(ended, SessionMoved):  # that one goes on elsewhere
                raise
        served = await self._service.known_model(model, version_number(version))  # as the steps ask for
        request = session_pb2.OpenSessionRequest(model=model, version=served.version, id=id, request_id=uuid4().hex)
        if idle_ttl is not None:
            request.idle_ttl.FromTimedelta(duration("idle_ttl", idle_ttl))
        with suppress(SessionExists):  # somebody else has opened it meanwhile
            await self._service.call(self._service.sessions.OpenSession, request)
        return await self._step(model, id, values, seq, secret, version)

    async def _step(
        self, model: str, id: str, values: Values, seq: int | None, secret: bytes | None, version: int | None
    ) -> Outputs:
        number = None if seq is None else step_count("seq", seq)
        session, proof = identifier("id", id), secret_bytes(secret)
        info = await self._service.known_model(model, version_number(version))
        _, packed = pack(info, values, ())
        inputs = {
            spec.name: inference_pb2.Values(numbers=np.frombuffer(piece, spec.dtype.newbyteorder("<")).tolist())
            for spec, piece in zip(info.inputs, packed, strict=True)
        }
        request = inference_pb2.StepRequest(
            model=model,
            version=info.version,
            session_id=session,
            secret=proof,
            seq=number,
            inputs=inputs,
        )
        response = await self._service.call(self._service.inference.Step, request, repeatable=number is not None)
        outputs: dict[str, Array] = {
            spec.name: np.array(response.outputs[spec.name].numbers, spec.dtype).reshape(spec.shape) for spec in info.outputs
        }
        return outputs

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
        """A rollout by a call of its own; otherwise as `Session.generate`. Without an id it begins at the initial state, and
        nothing is left of it. With one, it goes on from where that session stands behind what is pending.

        If the connection breaks before the first piece of one that commits, nobody can tell whether it was applied: it raises
        ConnectionLost or Unavailable. Also raises SessionInUse while a stream holds the session and no secret is given.
        """
        asked, number = ask(**sampling), version_number(version)
        asked.request.session_id = "" if id is None else identifier("id", id)
        asked.request.secret = secret_bytes(secret)
        if id is None:
            asked.request.commit = inference_pb2.COMMIT_NONE

        async def run(course: Course) -> AsyncGenerator[Piece, None]:
            info = await self._service.known_model(model, number)
            asked.address(info, prompt)
            writer = info.text.writer() if info.text else None
            async with aclosing(pieces(self._service.roll(asked.request, info), info, course, writer=writer)) as source:
                async for piece in source:
                    yield piece

        return Rollout(asked.request.seed, run)

    # Copies ----------------------------------------------------------------------------------------------------------

    @overload
    async def fork_session(
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
    async def fork_session(
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
    async def fork_session(
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
        """New sessions that go on from where one stands, which does not notice. They are this client's own: attached, to be
        closed by it. count: None makes one Session, a number a SessionGroup, of which all or none are made.

        at: the forks begin with so many steps applied. Pending steps up to there are waited for. Raises SequencePassed if more
        are applied already, SequenceMismatch if fewer have been sent. None: as many as have arrived at the server.
        Raises SessionInUse while a stream holds the session and no secret is given, SessionQuarantined, SessionCapacity. The
        call is safe to repeat within the client: it never forks twice.
        """
        return await forked(self._service, model, id, count, secret=secret, at=at, ids=ids, version=version, care=Care())

    async def export_session(
        self,
        model: str,
        id: str,
        *,
        secret: bytes | None = None,
        at: int | None = None,
        close: bool = False,
        version: int | None = None,
    ) -> bytes:
        """A session as bytes: its state, its count of steps and its unacknowledged answers, for `import_session` at any server
        with the same model. It holds no secret, and it is data, never code.

        at: as in `fork_session`. close: also end the session here, so that it goes on in one place only; whoever holds it is
        told SessionMoved. Raises as `fork_session`.
        """
        return await self._service.export(model, id, secret=secret, at=at, close=close, version=version)

    def import_session(
        self,
        snapshot: bytes,
        *,
        id: str | None = None,
        acked: int | None = None,
        durable: bool = False,
        on_lag: OnLag = "wait",
        require_bitwise: bool = False,
    ) -> Opening[Session]:
        """Makes a session of a snapshot, attached like one of `open_session` and used in the same ways.

        id: None is the id in the snapshot. acked: as in `attach_session`, for answers that the snapshot brings along and that
        nobody has received. Whether the session will give the very bits that it would have given where it was exported,
        its `bitwise` tells. durable, on_lag, require_bitwise: as in `open_session`. Raises SessionExists, SnapshotCorrupt,
        ModelNotFound, ModelMismatch, SessionCapacity.
        """
        count, care = None if acked is None else step_count("acked", acked), cared_for(on_lag, require_bitwise)

        async def import_it() -> Session:
            response = await self._service.import_snapshot(snapshot, id, durable=durable)
            made, key = response.session, (response.session.id, response.secret)
            attaching = self._service.attach(made.model, made.version, [key], count, care=care, made=True)
            session = grouped(await one(attaching))[0]
            await session._came_as(bitwise=response.bitwise)
            return session

        return Opening(import_it)
