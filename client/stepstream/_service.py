"""The service as a client uses it: the channel, calls that are tried again, models, and sessions held on a stream.

It hands out ledgers and knows no session objects: `Client`, `Session` and `SessionGroup` stand on it.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar
from uuid import uuid4

import grpc
import numpy as np
from google.protobuf.message import Message

from stepstream._errors import ConnectionLost, GroupError, ServerDraining, Unauthenticated
from stepstream._events import Journal
from stepstream._models import ModelInfo, SessionInfo, model_info, session_info
from stepstream._options import ClientOptions
from stepstream._reach import Reach, target_of
from stepstream._resumption import lasting_messages
from stepstream._rollout import messages
from stepstream._stream.connection import Connection, Draining
from stepstream._stream.ledger import Care, Ledger
from stepstream._stream.members import Request
from stepstream._tensors import (
    at_least_one,
    byte_string,
    duration,
    identifier,
    identifiers,
    secret_bytes,
    step_count,
    uint32s,
    version_number,
)
from stepstream._translation import breaks, from_rpc, from_wire
from stepstream_proto.v1 import (
    inference_pb2,
    inference_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    session_pb2,
    session_pb2_grpc,
)

NOTHING_AGAIN = 2**63 - 1  # above every next_seq, to which the server clamps it
NEWEST_SECONDS = 60.0  # a new version takes a restart of the server, which is rare; one more call a minute is not noticed

Response = TypeVar("Response")


@dataclass(frozen=True, slots=True)
class Attached:
    """Sessions of one model that a stream holds, opened or attached together."""

    service: Service
    connection: Connection
    ledgers: Sequence[Ledger]
    model: ModelInfo

    async def close(self) -> None:
        """Closes them all: they are not wanted after all."""
        await self.connection.leave(self.ledgers, close=True)


class Service:
    """One server, reached over one channel and as many streams as sessions need. Methods raise errors of this package, and
    RuntimeError where the client is used in another event loop or process than it was opened in."""

    _process: ClassVar[int] = 0  # in which the first channel was opened

    def __init__(self, address: str, options: ClientOptions) -> None:
        self.options = options
        self.draining = Draining()
        self.journal = Journal(address)
        self._address = address
        self._reach = Reach(address, options)
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # that the channel belongs to
        self._connections: list[Connection] = []
        self._models: dict[tuple[str, int], ModelInfo] = {}
        self._newest: dict[str, tuple[float, ModelInfo]] = {}  # by name, with the time when it was asked for
        self._asked: dict[tuple[str, int], asyncio.Task[ModelInfo]] = {}  # for models, and not answered yet

    def open(self) -> None:
        """Makes the channel. A stream is opened with the first session. Raises RuntimeError in a forked process."""
        _claim_process()
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            self.draining = Draining()  # that of an earlier loop belongs to that one
        self._loop, self.journal.closed = loop, False
        self._channel = _channel(target_of(self._address), self.options, self._reach)

    async def close(self) -> None:
        """Ends the streams. Sessions that were not closed stay open at the server until they expire."""
        connections, channel = self._connections, self._channel
        self._connections, self._channel = [], None
        for connection in connections:
            await connection.close()
        self.journal.close()
        if channel is not None:
            await channel.close()

    @property
    def connected(self) -> bool:
        """Whether the server answers on a stream of the client."""
        return any(each.online for each in self._connections)

    # Calls -----------------------------------------------------------------------------------------------------------

    @property
    def channel(self) -> grpc.aio.Channel:
        """The open channel. Raises RuntimeError before `open`, after `close`, on another event loop and in a forked process."""
        if self._channel is None:
            raise RuntimeError("the client is not open: use it as `async with Client(...) as client`")
        _claim_process()
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("the client belongs to another event loop: enter one in the loop that runs here")
        return self._channel

    def check_open(self) -> None:
        """Raises RuntimeError where there is no channel to be used, as `channel` does."""
        _ = self.channel

    @property
    def inference(self) -> inference_pb2_grpc.InferenceServiceStub:
        """The calls for steps and rollouts, and the stream."""
        return inference_pb2_grpc.InferenceServiceStub(self.channel)

    @property
    def sessions(self) -> session_pb2_grpc.SessionServiceStub:
        """The calls about sessions that need not be held."""
        return session_pb2_grpc.SessionServiceStub(self.channel)

    @property
    def models(self) -> model_pb2_grpc.ModelServiceStub:
        """The calls about the models that are served."""
        return model_pb2_grpc.ModelServiceStub(self.channel)

    async def call(
        self,
        method: Callable[..., Awaitable[Response]],
        message: Message,
        *,
        repeatable: bool = True,
        waits_for_successor: bool = True,
    ) -> Response:
        """One call, tried again within its time while the server cannot be reached or is about to stop, and once where the token
        that it has shown was replaced meanwhile.

        repeatable: False if a repeat would do more than once. waits_for_successor: False to have ServerDraining raised at once.
        """
        backoff, token = self._reach.backoff(), self._reach.token
        renewed = False
        left = seconds = self.options.call_timeout_seconds
        until: float | None = None  # by the loop's clock; begins to run once the server has ever answered
        while True:
            if self._reach.reached:
                now = asyncio.get_running_loop().time()
                until = until or now + seconds
                left = until - now
            if self._channel is None:
                raise ConnectionLost("the client was closed")
            shown = token.metadata()
            try:
                response = await method(message, timeout=left, metadata=shown)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error)
            except asyncio.CancelledError:  # also what gRPC raises where its channel is closed
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                raise ConnectionLost("the client was closed") from None
            else:
                self._reach.heard()
                return response
            self._reach.heard(failure)
            if isinstance(failure, Unauthenticated) and not renewed and token.replaced(shown):
                renewed = True
                continue
            delay = backoff.delay(failure.retry_delay)
            if isinstance(failure, ServerDraining) and not waits_for_successor:
                raise failure
            if not repeatable or not breaks(failure) or delay is None or delay >= left:
                raise self._reach.explained(failure)
            await asyncio.sleep(delay)

    def roll(
        self,
        request: inference_pb2.GenerateRequest,
        model: ModelInfo,
        on_begun: Callable[[], None] = lambda: None,
        stands: Callable[[], Awaitable[None]] | None = None,
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """A rollout's messages. on_begun: called when the server has begun it. stands: waits for a durable session. Raises
        ServerDraining, for one that has its number among a session's steps, rather than wait for another server."""
        return messages(self.inference.Generate, request, model, self._reach.backoff(), self._reach.token, on_begun, stands)

    def roll_on(
        self, request: inference_pb2.GenerateRequest, model: ModelInfo, ledger: Ledger
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        """The messages of a rollout that commits to a durable session; as `roll`."""
        return lasting_messages(self.inference.Generate, request, model, ledger, self._reach.backoff(), self._reach.token)

    async def get_model(self, name: str, version: int | None = None) -> ModelInfo:
        """Asks for one model. version: None is the newest served. Raises ModelNotFound."""
        request = model_pb2.GetModelRequest(name=identifier("model", name), version=version_number(version))
        return model_info((await self.call(self.models.GetModel, request)).model)

    async def known_model(self, name: str, version: int) -> ModelInfo:
        """The record of a version never changes, so it is asked for once. Which version is the newest, 0, is asked again after
        NEWEST_SECONDS."""
        asked, newest = self._newest.get(name, (-math.inf, None))
        fresh = asyncio.get_running_loop().time() - asked < NEWEST_SECONDS
        info = self._models.get((name, version)) if version else newest if fresh else None
        if info is not None:
            return info
        key = name, version
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(self._ask_for_model(name, version), name="stepstream model")
            self._asked[key].add_done_callback(lambda _: self._asked.pop(key))
        return await asyncio.shield(self._asked[key])  # others may wait for it

    async def _ask_for_model(self, name: str, version: int) -> ModelInfo:
        info = await self.get_model(name, version or None)
        self._models[name, info.version] = info
        if not version:
            self._newest[name] = (asyncio.get_running_loop().time(), info)
        return info

    # Sessions that the stream holds ----------------------------------------------------------------------------------

    async def open_sessions(
        self, model: str, version: int | None, count: int, ids: Sequence[str], idle_ttl: float | None, durable: bool, care: Care
    ) -> Attached:
        """Opens sessions, all or none. Raises GroupError if some are refused."""
        opening = inference_pb2.OpenOnStream(
            model=identifier("model", model), version=version_number(version), ids=ids, durable=durable
        )
        if idle_ttl is not None:
            opening.idle_ttl.FromTimedelta(duration("idle_ttl", idle_ttl))
        connection = self._connected(count)
        ledgers = connection.members.new_ledgers(count, care)
        opening.handles = uint32s([each.handle for each in ledgers])
        opening.request_id = uuid4().hex  # on another stream the same opening finds what it opened
        request = Request(ledgers, inference_pb2.StreamRequest(open=opening), opens=True)
        return await self._join(connection, request, model)

    async def attach(
        self,
        model: str,
        version: int,
        keys: Sequence[tuple[str, bytes]],
        acked: int | None = None,
        *,
        care: Care,
        made: bool = False,
    ) -> Attached:
        """Attaches sessions by id and secret, all or none. Raises GroupError if some are refused.

        acked: answers of steps below have been received; None: nothing is wanted again. made: they were made for this call, so
        that they are closed if it fails.
        """
        connection = self._connected(len(keys))
        ledgers = connection.members.new_ledgers(len(keys), care)
        count = NOTHING_AGAIN if acked is None else acked
        replay_from = 0 if acked is None else None  # whoever goes on behind all that was applied misses nothing
        attach = inference_pb2.Attach(model=identifier("model", model), version=version)
        for ledger, (id, secret) in zip(ledgers, keys, strict=True):
            ledger.secret = secret
            attach.sessions.add(handle=ledger.handle, id=id, secret=secret, acked=count, replay_from=replay_from)
        request = Request(ledgers, inference_pb2.StreamRequest(attach=attach), opens=made, acked=count)
        return await self._join(connection, request, model)

    async def _join(self, connection: Connection, request: Request, model: str) -> Attached:
        await connection.join(request)
        ledgers = request.ledgers
        errors = {index: each.ended for index, each in enumerate(ledgers) if each.ended is not None}
        if errors:
            await connection.leave(ledgers, close=request.opens)
            raise GroupError(errors, np.array([each.ended is None for each in ledgers]))
        try:
            info = await self.known_model(model, request.version)
        except BaseException:
            connection.members.let_go(request)
            raise
        for ledger in ledgers:
            ledger.know(info, self.options.replay_bytes)
        return Attached(self, connection, ledgers, info)

    def _connected(self, sessions: int) -> Connection:
        """A connection with room for so many sessions more: a new one with a stream of its own if there is none."""
        open_stream = self.inference.Stream
        self._reach.token.metadata()  # a file without a token is told here rather than in the connection's task
        self._connections = [each for each in self._connections if each.ended is None]
        for connection in self._connections:
            if connection.has_room(sessions):
                return connection
        connection = Connection(self.options, self._reach, self.draining, self.journal)
        connection.start(open_stream)
        self._connections.append(connection)
        return connection

    # Sessions that are named by id -----------------------------------------------------------------------------------

    async def get_session(self, model: str, id: str, version: int | None) -> SessionInfo:
        """Looks at an open session without touching it. Raises SessionNotFound or how it has ended."""
        request = session_pb2.GetSessionRequest(
            model=identifier("model", model), version=version_number(version), id=identifier("id", id)
        )
        return session_info((await self.call(self.sessions.GetSession, request)).session)

    async def fork(
        self,
        model: str,
        id: str,
        count: int,
        *,
        secret: bytes | None,
        at: int | None,
        ids: Sequence[str] | None,
        version: int | None,
        care: Care,
        waits_for_successor: bool = True,
    ) -> Attached:
        """`count` new sessions that go on from where one stands, attached, all or none. Raises GroupError if some are refused."""
        at_least_one("count", count)
        request = session_pb2.ForkSessionRequest(
            model=identifier("model", model),
            version=version_number(version),
            id=identifier("id", id),
            secret=secret_bytes(secret),
            at_seq=None if at is None else step_count("at", at),
            fork_ids=[] if ids is None else identifiers("ids", ids, count),
            count=count,
            request_id=uuid4().hex,
        )
        response = await self.call(self.sessions.ForkSession, request, waits_for_successor=waits_for_successor)
        errors = {index: from_wire(each.error) for index, each in enumerate(response.sessions) if each.HasField("error")}
        keys = [(each.id, each.secret) for each in response.sessions if not each.HasField("error")]
        attached = await self.attach(model, request.version, keys, care=care, made=True) if keys else None
        if attached is None or errors:
            if attached is not None:
                await attached.close()
            raise GroupError(errors, np.array([each not in errors for each in range(count)]))
        return attached

    async def export(
        self, model: str, id: str, *, secret: bytes | None, at: int | None, close: bool, version: int | None
    ) -> bytes:
        """A session as bytes. close: also end it."""
        request = session_pb2.ExportSessionRequest(
            model=identifier("model", model),
            version=version_number(version),
            id=identifier("id", id),
            secret=secret_bytes(secret),
            at_seq=None if at is None else step_count("at", at),
            close=close,
            request_id=uuid4().hex if close else "",
        )
        return bytes((await self.call(self.sessions.ExportSession, request)).snapshot)

    async def import_snapshot(self, snapshot: bytes, id: str | None, *, durable: bool) -> session_pb2.ImportSessionResponse:
        """Makes a session of a snapshot, which nobody holds yet. id: None is the id in the snapshot."""
        request = session_pb2.ImportSessionRequest(
            snapshot=byte_string("snapshot", snapshot),
            id="" if id is None else identifier("id", id),
            request_id=uuid4().hex,
            durable=durable,
        )
        return await self.call(self.sessions.ImportSession, request)


async def one(attaching: Awaitable[Attached]) -> Attached:
    """A single session: raises its own error instead of a group of one."""
    try:
        return await attaching
    except GroupError as refused:
        raise refused.errors[0] from None


def _claim_process() -> None:
    """Notes that this process has a channel. Raises RuntimeError in a fork of such a process: gRPC's threads did not come along,
    so that a call would hang or crash, whatever was closed before."""
    Service._process = Service._process or os.getpid()
    if Service._process != os.getpid():
        raise RuntimeError(
            "this process was forked from one that has had a client, and gRPC does not survive that: start processes before there"
            " is a client, or by the `spawn` method of `multiprocessing`"
        )


def _channel(address: str, options: ClientOptions, reach: Reach) -> grpc.aio.Channel:
    settings = [
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.max_receive_message_length", options.max_answer_bytes),
        ("grpc.keepalive_time_ms", round(options.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", round(options.keepalive_timeout_seconds * 1000)),
        ("grpc.initial_reconnect_backoff_ms", round(options.reconnect_first_seconds * 1000)),
        ("grpc.max_reconnect_backoff_ms", round(options.reconnect_most_seconds * 1000)),
        ("grpc.enable_http_proxy", int(not reach.direct)),
        ("grpc.enable_retries", 0),  # a stream's messages are numbered here and must never be replayed below
    ]
    if options.tls is None:
        return grpc.aio.insecure_channel(address, settings)
    tls = options.tls
    credentials = grpc.ssl_channel_credentials(tls.root_certificates, tls.private_key, tls.certificate_chain)
    return grpc.aio.secure_channel(address, credentials, settings)
