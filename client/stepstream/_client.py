"""The client: one server, one multiplexed stream, models and sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

import grpc
import numpy as np
from google.protobuf.message import Message

from stepstream._arguments import at_least_one, duration, step_count, version_number
from stepstream._backoff import Backoff
from stepstream._connection import Connection
from stepstream._errors import InvalidArgument
from stepstream._group import SessionGroup
from stepstream._group_error import GroupError
from stepstream._models import ModelInfo, model_info
from stepstream._opening import Opening
from stepstream._options import ClientOptions
from stepstream._requests import Request
from stepstream._rows import RowLimits
from stepstream._session import Session
from stepstream._session_calls import SessionCalls
from stepstream._tensors import uint32s
from stepstream._translation import from_rpc
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, model_pb2, model_pb2_grpc

NOTHING_AGAIN = 2**63 - 1  # above every next_seq, to which the server clamps it

Response = TypeVar("Response")


class Client(SessionCalls):
    """A connection to one server, to be used as a context manager. All methods raise errors of this package only.

    The stream is opened with the first session. When it breaks, another takes its place: sessions are attached anew, what had
    no answer is sent again, and nobody notices but by the delay. Only after `ClientOptions.reconnect_seconds` without a server
    do the sessions end with ConnectionLost; the next one that is opened or attached begins anew.
    """

    def __init__(self, address: str, options: ClientOptions | None = None) -> None:
        self._address = address
        self._options = options or ClientOptions()
        self._channel: grpc.aio.Channel | None = None
        self._connection: Connection | None = None
        self._models: dict[tuple[str, int], ModelInfo] = {}
        self._models_lock = asyncio.Lock()
        self.draining = asyncio.Event()
        """Set while the server that the stream leads to is about to stop: finish what is under way."""

    async def __aenter__(self) -> Self:
        self._channel = self._open_channel()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the stream. Sessions that were not closed stay open at the server until they expire."""
        connection, channel = self._connection, self._channel
        self._connection = self._channel = None
        if connection is not None:
            await connection.close()
        if channel is not None:
            await channel.close()

    # Models ----------------------------------------------------------------------------------------------------------

    async def models(self) -> list[ModelInfo]:
        """Every model that is served."""
        stub = model_pb2_grpc.ModelServiceStub(self._open())
        response = await self._call(stub.ListModels, model_pb2.ListModelsRequest())
        return [model_info(each) for each in response.models]

    async def model(self, name: str, version: int | None = None) -> ModelInfo:
        """One model. version: None is the newest served. Raises ModelNotFound."""
        stub = model_pb2_grpc.ModelServiceStub(self._open())
        response = await self._call(stub.GetModel, model_pb2.GetModelRequest(name=name, version=version_number(version)))
        return model_info(response.model)

    # Sessions --------------------------------------------------------------------------------------------------------

    def open_session(
        self, model: str, *, version: int | None = None, id: str | None = None, idle_ttl: float | None = None
    ) -> Opening[Session]:
        """Opens a session: `async with client.open_session("ecg") as session`, or `session = await client.open_session("ecg")`.

        version: None is the newest served. id: None lets the server make one, else 1 to 128 characters of A-Z a-z 0-9 . _ : -.
        idle_ttl: seconds without a step after which the server closes it; None is the server's setting. Raises ModelNotFound,
        SessionExists, SessionCapacity, ServerDraining, ConnectionLost.
        """

        async def open_it() -> Session:
            try:
                group = await self._open_group(model, version, 1, [] if id is None else [id], idle_ttl)
            except GroupError as refused:
                raise refused.errors[0] from None
            return group[0]

        return Opening(open_it)

    def open_sessions(
        self,
        model: str,
        count: int,
        *,
        version: int | None = None,
        ids: Sequence[str] | None = None,
        idle_ttl: float | None = None,
    ) -> Opening[SessionGroup]:
        """Opens `count` sessions to be stepped together, at most 10,000; otherwise as `open_session`. All or none: if some are
        refused, the others are closed and GroupError tells which. Raises InvalidArgument for a count below 1, or another number
        of ids."""
        at_least_one("count", count)
        if ids is not None and len(ids) != count:
            raise InvalidArgument(f"ids: expected {count}, got {len(ids)}")

        return Opening(lambda: self._open_group(model, version, count, ids or [], idle_ttl))

    def attach_session(
        self, model: str, id: str, secret: bytes, *, version: int | None = None, acked: int | None = None
    ) -> Opening[Session]:
        """Takes an open session over, from whichever connection holds it.

        acked: the next step sent gets this number (a lost session's `acked`); steps that were applied already are answered as
        before and the state does not move again. None: go on behind all that was applied. Raises SessionNotFound,
        SecretMismatch and the other endings of a session.
        """
        count = None if acked is None else step_count("acked", acked)

        async def attach_it() -> Session:
            try:
                group = await self._attach_group(model, version_number(version), [(id, secret)], count)
            except GroupError as refused:
                raise refused.errors[0] from None
            return group[0]

        return Opening(attach_it)

    async def _open_group(
        self, model: str, version: int | None, count: int, ids: Sequence[str], idle_ttl: float | None
    ) -> SessionGroup:
        opening = inference_pb2.OpenOnStream(model=model, version=version_number(version), ids=ids)
        if idle_ttl is not None:
            opening.idle_ttl.FromTimedelta(duration("idle_ttl", idle_ttl))
        connection = self._connected()
        ledgers = connection.new_ledgers(count)
        opening.handles = uint32s([each.handle for each in ledgers])
        opening.request_id = uuid4().hex  # on another stream the same opening finds what it opened
        request = Request(ledgers, inference_pb2.StreamRequest(open=opening), opens=True)
        return await self._join(connection, request, model)

    async def _attach_group(
        self, model: str, version: int, keys: Sequence[tuple[str, bytes]], acked: int | None = None, *, made: bool = False
    ) -> SessionGroup:
        connection = self._connected()
        ledgers = connection.new_ledgers(len(keys))
        count = NOTHING_AGAIN if acked is None else acked
        attach = inference_pb2.Attach(model=model, version=version)
        for ledger, (id, secret) in zip(ledgers, keys, strict=True):
            ledger.secret = secret
            attach.sessions.add(handle=ledger.handle, id=id, secret=secret, acked=count)
        request = Request(ledgers, inference_pb2.StreamRequest(attach=attach), opens=made, acked=count)
        return await self._join(connection, request, model)

    async def _join(self, connection: Connection, request: Request, model: str) -> SessionGroup:
        await connection.join(request)
        ledgers = request.ledgers
        errors = {index: each.ended for index, each in enumerate(ledgers) if each.ended is not None}
        if errors:
            await connection.leave(ledgers, close=request.opens)
            raise GroupError(errors, np.array([each.ended is None for each in ledgers]))
        try:
            info = await self._model(model, request.version)
        except BaseException:
            connection.let_go(request)
            raise
        for ledger in ledgers:
            ledger.model = info
        first = ledgers[0]  # a model's sessions have the same window
        limits = RowLimits(info, first.window_steps, first.window_bytes, self._options)
        return SessionGroup(connection, ledgers, info, limits, self)

    async def _model(self, name: str, version: int) -> ModelInfo:
        """The record of a version never changes, so it is asked for once. 0, the newest, is asked for each time."""
        async with self._models_lock:
            info = self._models.get((name, version))
            if info is None:
                info = await self.model(name, version or None)
                self._models[name, info.version] = info
            return info

    # The wire --------------------------------------------------------------------------------------------------------

    def _connected(self) -> Connection:
        channel = self._open()
        if self._connection is None or self._connection.ended is not None:
            self.draining.clear()
            self._connection = Connection(self._options, self.draining)
            self._connection.start(inference_pb2_grpc.InferenceServiceStub(channel).Stream)
        return self._connection

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise RuntimeError("the client is not open: use it as `async with Client(...) as client`")
        return self._channel

    def _open_channel(self) -> grpc.aio.Channel:
        options = self._options
        settings = [
            ("grpc.max_send_message_length", options.max_message_bytes),
            ("grpc.max_receive_message_length", options.max_answer_bytes),
            ("grpc.keepalive_time_ms", round(options.keepalive_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", round(options.keepalive_timeout_seconds * 1000)),
            ("grpc.initial_reconnect_backoff_ms", round(options.reconnect_first_seconds * 1000)),
            ("grpc.max_reconnect_backoff_ms", round(options.reconnect_most_seconds * 1000)),
            ("grpc.enable_retries", 0),  # a stream's messages are numbered here and must never be replayed below
        ]
        if options.tls is None:
            return grpc.aio.insecure_channel(self._address, settings)
        tls = options.tls
        credentials = grpc.ssl_channel_credentials(tls.root_certificates, tls.private_key, tls.certificate_chain)
        return grpc.aio.secure_channel(self._address, credentials, settings)

    def _patience(self) -> Backoff:
        return Backoff(self._options)

    async def _call(self, method: Callable[..., Awaitable[Response]], message: Message, *, repeatable: bool = True) -> Response:
        """One call, tried again within its time while the server cannot be reached, unless a repeat would do more than once."""
        backoff = self._patience()
        until = asyncio.get_running_loop().time() + self._options.call_timeout_seconds
        while True:
            left = until - asyncio.get_running_loop().time()
            try:
                return await method(message, timeout=left)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc(error)
            delay = backoff.delay(failure.retry_delay)
            if not repeatable or failure.code is not grpc.StatusCode.UNAVAILABLE or delay is None or delay >= left:
                raise failure
            await asyncio.sleep(delay)
