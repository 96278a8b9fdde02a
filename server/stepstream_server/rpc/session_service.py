"""`SessionService`: sessions opened, looked at, copied, moved and closed outside a stream. Convert, delegate, convert back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stepstream_proto.v1 import session_pb2, session_pb2_grpc
from stepstream_server import snapshots
from stepstream_server.config import DoorSettings
from stepstream_server.engine import ports
from stepstream_server.errors import StepStreamError
from stepstream_server.rpc.convert import fields, sessions
from stepstream_server.rpc.convert.sessions import Place
from stepstream_server.rpc.door import ModelDoor
from stepstream_server.rpc.interceptors import Context
from stepstream_server.rpc.models import Models
from stepstream_server.spec import ModelSpec


class SessionService(session_pb2_grpc.SessionServiceServicer):
    """Sessions as things of their own."""

    def __init__(self, models: Models, settings: DoorSettings) -> None:
        self._models = models
        self._settings = settings

    async def OpenSession(self, request: session_pb2.OpenSessionRequest, context: Context) -> session_pb2.OpenSessionResponse:
        door = self._models.find(request.model, request.version)
        ids = [fields.check_id("id", request.id) if request.id else ""]
        (opened,) = await _open(door, ids, request)
        if isinstance(opened, StepStreamError):
            raise opened
        try:
            session = await _describe(door, opened.id)
        except StepStreamError:  # it has ended already; its opener is told the secret all the same
            session = session_pb2.Session(model=door.spec.name, version=door.spec.version, id=opened.id)
        return session_pb2.OpenSessionResponse(session=session, secret=opened.secret)

    async def OpenSessions(self, request: session_pb2.OpenSessionsRequest, context: Context) -> session_pb2.OpenSessionsResponse:
        door = self._models.find(request.model, request.version)
        ids = fields.decode_ids("ids", request.ids, request.count)
        return session_pb2.OpenSessionsResponse(sessions=sessions.encode_opened(await _open(door, ids, request)))

    async def GetSession(self, request: session_pb2.GetSessionRequest, context: Context) -> session_pb2.GetSessionResponse:
        door = self._models.find(request.model, request.version)
        id = fields.check_id("id", request.id)
        return session_pb2.GetSessionResponse(session=await _describe(door, id))

    async def ListSessions(self, request: session_pb2.ListSessionsRequest, context: Context) -> session_pb2.ListSessionsResponse:
        most = sessions.decode_page_size(request.page_size)
        doors, start = self._to_list(request)
        listed: list[session_pb2.Session] = []
        for following, door in enumerate(doors, 1):
            page = await _page(door, start, most - len(listed))
            listed += [sessions.encode_session(door, info) for info in page.sessions]
            if page.next is not None:
                return _listing(listed, door, page.next)
            if len(listed) == most and following < len(doors):
                return _listing(listed, doors[following], 0)
            start = 0
        return session_pb2.ListSessionsResponse(sessions=listed)

    async def CloseSession(self, request: session_pb2.CloseSessionRequest, context: Context) -> session_pb2.CloseSessionResponse:
        door = self._models.find(request.model, request.version)
        id = fields.check_id("id", request.id)
        next_seq = await door.ask(lambda number: ports.Close(number, id, request.secret))
        return session_pb2.CloseSessionResponse(next_seq=next_seq)

    async def ForkSession(self, request: session_pb2.ForkSessionRequest, context: Context) -> session_pb2.ForkSessionResponse:
        door = self._models.find(request.model, request.version)
        id = fields.check_id("id", request.id)
        at_seq = sessions.decode_at_seq(request)
        ids = fields.decode_ids("fork_ids", request.fork_ids, request.count or 1)
        request_id = fields.check_request_id(request.request_id)
        forked: ports.Forked = await door.ask(lambda number: ports.Fork(number, id, request.secret, at_seq, ids, request_id))
        return session_pb2.ForkSessionResponse(sessions=sessions.encode_opened(forked.sessions), next_seq=forked.next_seq)

    async def ExportSession(
        self, request: session_pb2.ExportSessionRequest, context: Context
    ) -> session_pb2.ExportSessionResponse:
        door = self._models.find(request.model, request.version)
        id = fields.check_id("id", request.id)
        at_seq = sessions.decode_at_seq(request)
        request_id = fields.check_request_id(request.request_id)
        most = self._settings.max_message_bytes - _overhead(door.spec)
        snapshot: snapshots.Snapshot = await door.ask(
            lambda number: ports.Export(number, id, request.secret, at_seq, request.close, most, request_id)
        )
        data = await asyncio.to_thread(snapshots.encode, snapshot)  # megabytes to hash
        return session_pb2.ExportSessionResponse(snapshot=data, next_seq=snapshot.next_seq)

    async def ImportSession(
        self, request: session_pb2.ImportSessionRequest, context: Context
    ) -> session_pb2.ImportSessionResponse:
        snapshot = await asyncio.to_thread(snapshots.decode, request.snapshot)
        door = self._models.find(snapshot.model, snapshot.version)
        id = fields.check_id("id", request.id or snapshot.id)
        request_id = fields.check_request_id(request.request_id)
        imported: ports.Imported = await door.ask(lambda number: ports.Import(number, snapshot, id, request_id))
        session, secret = await _describe(door, imported.opened.id), imported.opened.secret
        return session_pb2.ImportSessionResponse(session=session, secret=secret, bitwise=imported.bitwise)

    def _to_list(self, request: session_pb2.ListSessionsRequest) -> tuple[list[ModelDoor], int]:
        """The models whose sessions are asked for and not listed yet, and where in the first of them to go on."""
        doors = [
            door
            for door in self._models.all()
            if request.model in ("", door.spec.name) and request.version in (0, door.spec.version)
        ]
        if not doors and request.model:
            self._models.find(request.model, request.version)  # says what is not served
        if not request.page_token:
            return doors, 0
        place = sessions.decode_page_token(request.page_token)
        for index, door in enumerate(doors):
            if (door.spec.name, door.spec.version) == (place.model, place.version):
                return doors[index:], place.start
        raise sessions.wrong_page_token(request.page_token)


async def _open(
    door: ModelDoor, ids: Sequence[str], request: session_pb2.OpenSessionRequest | session_pb2.OpenSessionsRequest
) -> list[ports.Opened | StepStreamError]:
    idle_ttl = sessions.decode_idle_ttl(request)
    request_id = fields.check_request_id(request.request_id)
    opened: list[ports.Opened | StepStreamError] = await door.ask(
        lambda number: ports.Open(ports.NO_STREAM, number, ids, idle_ttl=idle_ttl, request_id=request_id)
    )
    return opened


async def _describe(door: ModelDoor, id: str) -> session_pb2.Session:
    info: ports.SessionInfo = await door.ask(lambda number: ports.Get(number, id))
    return sessions.encode_session(door, info)


async def _page(door: ModelDoor, start: int, most: int) -> ports.Page:
    page: ports.Page = await door.ask(lambda number: ports.List(number, start, most))
    return page


def _listing(listed: list[session_pb2.Session], door: ModelDoor, start: int) -> session_pb2.ListSessionsResponse:
    """A page that goes on at a session number of a model."""
    token = sessions.encode_page_token(Place(door.spec.name, door.spec.version, start))
    return session_pb2.ListSessionsResponse(sessions=listed, next_page_token=token)


def _overhead(spec: ModelSpec) -> int:
    """Bytes of a snapshot beside its tensors, at most: its fields, and each tensor's entry in the header."""
    names = [*(state.name for state in spec.states), *(output.name for output in spec.outputs)]
    return 4096 + sum(len(name.encode()) + 256 for name in names)
