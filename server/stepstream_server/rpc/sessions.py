"""`SessionService`: sessions opened, looked at, copied, moved and closed outside a stream. Convert, delegate, convert back."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stepstream_proto.v1 import inference_pb2, session_pb2, session_pb2_grpc
from stepstream_server import snapshots
from stepstream_server.access import Role
from stepstream_server.config import DoorSettings
from stepstream_server.engine import ports
from stepstream_server.engine.ports import NO_SEQ, Opened, SessionInfo
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc.boundary import wire_error
from stepstream_server.rpc.callers import Context, party_of, principal
from stepstream_server.rpc.columns import check_seq
from stepstream_server.rpc.engine_client import EngineClient
from stepstream_server.rpc.fields import check_id, check_request_id, decode_duration, decode_ids, encode_duration
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.openings import Openings
from stepstream_server.spec import ModelSpec
from stepstream_server.tenancy import plain, scoped, scoped_request

_PAGE_SIZE = 100  # sessions of a page whose size nobody named: some 20 KB
_MAX_PAGE_SIZE = 1000  # the engine describes as many in a millisecond, which steps wait for
_STORED = "@"  # in a page token: what follows is an id, behind which it goes on in the store


class Place(NamedTuple):
    """The point where a listing goes on: the place of a session among all that its tenant has opened of a model."""

    model: str
    version: int
    start: int | str  # as of ports.List; an id where the engine has a key


def decode_idle_ttl(
    request: session_pb2.OpenSessionRequest | session_pb2.OpenSessionsRequest | inference_pb2.OpenOnStream,
) -> float | None:
    """Seconds, None if the caller leaves it to the engine. Raises CallerError."""
    return decode_duration("idle_ttl", request.idle_ttl) if request.HasField("idle_ttl") else None


def decode_at_seq(request: session_pb2.ForkSessionRequest | session_pb2.ExportSessionRequest) -> int:
    """The number asked for, or NO_SEQ. Raises CallerError(INVALID_ARGUMENT)."""
    return check_seq("at_seq", request.at_seq) if request.HasField("at_seq") else NO_SEQ


def decode_page_size(size: int) -> int:
    """Sessions of one page. Raises CallerError(INVALID_ARGUMENT) for less than none."""
    if size < 0:
        raise CallerError(Reason.INVALID_ARGUMENT, f"page_size: expected 0 or more, got {size}", field="page_size")
    return min(size or _PAGE_SIZE, _MAX_PAGE_SIZE)


def encode_page_token(place: Place) -> str:
    """Opaque to the caller."""
    start = str(place.start) if isinstance(place.start, int) else _STORED + place.start
    return base64.urlsafe_b64encode(f"{place.model}/{place.version}/{start}".encode()).decode()


def decode_page_token(token: str) -> Place:
    """Raises CallerError(INVALID_ARGUMENT) for what `encode_page_token` has not made."""
    try:
        model, version, start = base64.urlsafe_b64decode(token).decode().rsplit("/", 2)
        place = Place(model, int(version), _decode_start(start))
    except ValueError:
        raise wrong_page_token(token) from None
    if encode_page_token(place) != token:
        raise wrong_page_token(token)
    return place


def _decode_start(start: str) -> int | str:
    """Raises ValueError or CallerError for what is no place of a listing."""
    if not start.startswith(_STORED):
        return check_seq("page_token", int(start))
    return check_id("page_token", start[1:]) if start[1:] else ""


def wrong_page_token(token: str) -> CallerError:
    """For a token that is not one, or not of the listing asked for."""
    message = f"page_token: expected what the page before gave for the same model and version, got {token[:100]!r}"
    return CallerError(Reason.INVALID_ARGUMENT, message, field="page_token")


def encode_session(engine: EngineClient, info: SessionInfo) -> session_pb2.Session:
    """What can be known about a session."""
    return session_pb2.Session(
        model=engine.spec.name,
        version=engine.spec.version,
        id=plain(info.id),
        status=_status(info),
        next_seq=info.next_seq,
        acked=info.acked,
        epoch=info.epoch,
        pending_steps=info.pending_steps,
        age=encode_duration(info.age),
        idle=encode_duration(info.idle),
        idle_ttl=encode_duration(info.idle_ttl),
        attached=info.attached,
        slot=info.slot if principal.get().role is Role.ADMIN else 0,
        durable=info.durable,
        durable_seq=info.durable_seq,
    )


def _status(info: SessionInfo) -> session_pb2.SessionStatus:
    if info.stored:
        return session_pb2.SESSION_STATUS_STORED
    return session_pb2.SESSION_STATUS_QUARANTINED if info.quarantined else session_pb2.SESSION_STATUS_OPEN


def encode_opened(results: Iterable[Opened | StepStreamError]) -> list[session_pb2.OpenedSession]:
    """One entry per session asked for."""
    return [
        session_pb2.OpenedSession(error=wire_error(result))
        if isinstance(result, StepStreamError)
        else session_pb2.OpenedSession(id=plain(result.id), secret=result.secret)
        for result in results
    ]


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """Sessions as things of their own."""

    def __init__(self, models: Models, openings: Openings, settings: DoorSettings) -> None:
        self._models = models
        self._openings = openings
        self._settings = settings

    async def OpenSession(self, request: session_pb2.OpenSessionRequest, context: Context) -> session_pb2.OpenSessionResponse:
        engine = self._models.find(request.model, request.version)
        ids = [check_id("id", request.id) if request.id else ""]
        (opened,) = await self._open(engine, ids, request, context)
        if isinstance(opened, StepStreamError):
            raise opened
        try:
            session = await _describe(engine, opened.id)
        except StepStreamError:  # it has ended already; its opener is told the secret all the same
            session = session_pb2.Session(model=engine.spec.name, version=engine.spec.version, id=plain(opened.id))
        return session_pb2.OpenSessionResponse(session=session, secret=opened.secret)

    async def OpenSessions(self, request: session_pb2.OpenSessionsRequest, context: Context) -> session_pb2.OpenSessionsResponse:
        engine = self._models.find(request.model, request.version)
        ids = decode_ids("ids", request.ids, request.count)
        return session_pb2.OpenSessionsResponse(sessions=encode_opened(await self._open(engine, ids, request, context)))

    async def GetSession(self, request: session_pb2.GetSessionRequest, context: Context) -> session_pb2.GetSessionResponse:
        engine = self._models.find(request.model, request.version)
        key = scoped(principal.get().tenant, check_id("id", request.id))
        return session_pb2.GetSessionResponse(session=await _describe(engine, key))

    async def ListSessions(self, request: session_pb2.ListSessionsRequest, context: Context) -> session_pb2.ListSessionsResponse:
        most = decode_page_size(request.page_size)
        engines, start = self._to_list(request)
        listed: list[session_pb2.Session] = []
        for following, engine in enumerate(engines, 1):
            page = await _page(engine, principal.get().tenant, start, most - len(listed))
            listed += [encode_session(engine, info) for info in page.sessions]
            if page.next is not None:
                return _listing(listed, engine, page.next)
            if len(listed) == most and following < len(engines):
                return _listing(listed, engines[following], 0)
            start = 0
        return session_pb2.ListSessionsResponse(sessions=listed)

    async def CloseSession(self, request: session_pb2.CloseSessionRequest, context: Context) -> session_pb2.CloseSessionResponse:
        engine = self._models.find(request.model, request.version)
        key = scoped(principal.get().tenant, check_id("id", request.id))
        next_seq = await engine.ask(lambda number: ports.Close(number, key, request.secret))
        return session_pb2.CloseSessionResponse(next_seq=next_seq)

    async def ForkSession(self, request: session_pb2.ForkSessionRequest, context: Context) -> session_pb2.ForkSessionResponse:
        engine = self._models.find(request.model, request.version)
        party, needs_secret = party_of(context), not principal.get().shared
        key = scoped(party.tenant, check_id("id", request.id))
        at_seq = decode_at_seq(request)
        keys = [scoped(party.tenant, id) for id in decode_ids("fork_ids", request.fork_ids, request.count or 1)]
        request_id = scoped_request(party.tenant, check_request_id(request.request_id))
        await self._openings.turn(party)
        forked: ports.Forked = await engine.ask(
            lambda number: ports.Fork(number, key, request.secret, at_seq, keys, request_id, needs_secret)
        )
        return session_pb2.ForkSessionResponse(sessions=encode_opened(forked.sessions), next_seq=forked.next_seq)

    async def ExportSession(
        self, request: session_pb2.ExportSessionRequest, context: Context
    ) -> session_pb2.ExportSessionResponse:
        engine = self._models.find(request.model, request.version)
        tenant, needs_secret = principal.get().tenant, not principal.get().shared
        key = scoped(tenant, check_id("id", request.id))
        at_seq = decode_at_seq(request)
        request_id = scoped_request(tenant, check_request_id(request.request_id))
        most = self._settings.max_message_bytes - _overhead(engine.spec)
        snapshot: snapshots.Snapshot = await engine.ask(
            lambda number: ports.Export(number, key, request.secret, at_seq, request.close, most, request_id, needs_secret)
        )
        data = await asyncio.to_thread(snapshots.encode, snapshot)  # megabytes to hash
        return session_pb2.ExportSessionResponse(snapshot=data, next_seq=snapshot.next_seq)

    async def ImportSession(
        self, request: session_pb2.ImportSessionRequest, context: Context
    ) -> session_pb2.ImportSessionResponse:
        snapshot = await asyncio.to_thread(snapshots.decode, request.snapshot)
        engine = self._models.find(snapshot.model, snapshot.version)
        party = party_of(context)
        key = scoped(party.tenant, check_id("id", request.id or snapshot.id))
        request_id = scoped_request(party.tenant, check_request_id(request.request_id))
        await self._openings.turn(party)
        imported: ports.Imported = await engine.ask(
            lambda number: ports.Import(number, snapshot, key, request_id, request.durable)
        )
        session, secret = await _describe(engine, imported.opened.id), imported.opened.secret
        return session_pb2.ImportSessionResponse(session=session, secret=secret, bitwise=imported.bitwise)

    async def _open(
        self,
        engine: EngineClient,
        ids: Sequence[str],
        request: session_pb2.OpenSessionRequest | session_pb2.OpenSessionsRequest,
        context: Context,
    ) -> list[ports.Opened | StepStreamError]:
        party = party_of(context)
        idle_ttl = decode_idle_ttl(request)
        request_id = scoped_request(party.tenant, check_request_id(request.request_id))
        keys = [scoped(party.tenant, id) for id in ids]
        await self._openings.turn(party)
        opened: list[ports.Opened | StepStreamError] = await engine.ask(
            lambda number: ports.Open(
                ports.NO_STREAM, number, keys, idle_ttl=idle_ttl, request_id=request_id, durable=request.durable
            )
        )
        return opened

    def _to_list(self, request: session_pb2.ListSessionsRequest) -> tuple[list[EngineClient], int | str]:
        """The models whose sessions are asked for and not listed yet, and where in the first of them to go on."""
        engines = [
            engine
            for engine in self._models.all()
            if request.model in ("", engine.spec.name) and request.version in (0, engine.spec.version)
        ]
        if not engines and request.model:
            self._models.find(request.model, request.version)  # says what is not served
        if not request.page_token:
            return engines, 0
        place = decode_page_token(request.page_token)
        for index, engine in enumerate(engines):
            if (engine.spec.name, engine.spec.version) == (place.model, place.version):
                start = place.start
                return engines[index:], scoped(principal.get().tenant, start) if isinstance(start, str) and start else start
        raise wrong_page_token(request.page_token)


async def _describe(engine: EngineClient, key: str) -> session_pb2.Session:
    info: ports.SessionInfo = await engine.ask(lambda number: ports.Get(number, key))
    return encode_session(engine, info)


async def _page(engine: EngineClient, tenant: str, start: int | str, most: int) -> ports.Page:
    page: ports.Page = await engine.ask(lambda number: ports.List(number, start, most, tenant))
    return page


def _listing(listed: list[session_pb2.Session], engine: EngineClient, start: int | str) -> session_pb2.ListSessionsResponse:
    """A page that goes on at a place in the sessions of a model."""
    shown = plain(start) if isinstance(start, str) else start
    token = encode_page_token(Place(engine.spec.name, engine.spec.version, shown))
    return session_pb2.ListSessionsResponse(sessions=listed, next_page_token=token)


def _overhead(spec: ModelSpec) -> int:
    """Bytes of a snapshot beside its tensors, at most: its fields, and each tensor's entry in the header."""
    names = [*(state.name for state in spec.states), *(output.name for output in spec.outputs)]
    return 4096 + sum(len(name.encode()) + 256 for name in names)
