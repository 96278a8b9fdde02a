"""The unary calls of the fake server in `support.servicer`: sessions looked at, copied, moved, closed and stepped one by one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import status_pb2

from stepstream_proto.v1 import common_pb2, inference_pb2, session_pb2, session_pb2_grpc
from support.status import abort, failed_call

if TYPE_CHECKING:
    from support.servicer import FakeServicer, FakeSession

NUMERICS = "fake"  # snapshots of another are imported as not bitwise


Answer = TypeVar("Answer", bound=Message)


class FakeSessionService(session_pb2_grpc.SessionServiceServicer):
    """The session service over the sessions of a fake server, and its unary Step."""

    def __init__(self, server: FakeServicer) -> None:
        self._server = server
        self._remembered: dict[str, Message] = {}  # answers by request id
        self.calls: list[Message] = []  # requests so far
        self.copies = 0  # asked for by fork, export and import, and made
        self.answering = asyncio.Event()  # cleared by tests that want these answers to wait
        self.answering.set()
        self.draining = False  # forks are refused, and the stream is told
        self.lose_answers = 0  # of so many calls that change something, once it is changed

    async def OpenSession(self, request: session_pb2.OpenSessionRequest, context: Any) -> session_pb2.OpenSessionResponse:
        self.calls.append(request)
        await self._server.tell()
        if request.id in self._server.sessions:
            await self._fail(context, grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")
        session = self._server.new_session(request.id, self._server.models[request.model])
        return session_pb2.OpenSessionResponse(session=describe(session), secret=session.secret)

    async def GetSession(self, request: session_pb2.GetSessionRequest, context: Any) -> session_pb2.GetSessionResponse:
        session = await self.find(request, context)
        self._server.rollouts.look(session)
        return session_pb2.GetSessionResponse(session=describe(session))

    async def ListSessions(self, request: session_pb2.ListSessionsRequest, context: Any) -> session_pb2.ListSessionsResponse:
        self.calls.append(type(request).FromString(request.SerializeToString()))
        wanted = [each for each in self._server.sessions.values() if request.model in ("", each.model.name)]
        first = int(request.page_token or 0)
        end = first + (request.page_size or 100)
        token = str(end) if end < len(wanted) else ""
        return session_pb2.ListSessionsResponse(sessions=map(describe, wanted[first:end]), next_page_token=token)

    async def CloseSession(self, request: session_pb2.CloseSessionRequest, context: Any) -> session_pb2.CloseSessionResponse:
        session = await self.find(request, context, owned=True)
        self._server.end_session(session.id, inference_pb2.DETACH_REASON_SESSION_CLOSED)
        return session_pb2.CloseSessionResponse(next_seq=session.next_seq)

    async def ForkSession(self, request: session_pb2.ForkSessionRequest, context: Any) -> session_pb2.ForkSessionResponse:
        session = await self.find(request, context, owned=True)

        def fork() -> session_pb2.ForkSessionResponse:
            ids = list(request.fork_ids) or [f"{session.id}-fork-{len(self._remembered)}-{n}" for n in range(request.count or 1)]
            return session_pb2.ForkSessionResponse(sessions=[self._make(id, session) for id in ids], next_seq=session.next_seq)

        await self._reach(session, request, context)
        return await self._once(request.request_id, fork, context)

    async def ExportSession(self, request: session_pb2.ExportSessionRequest, context: Any) -> session_pb2.ExportSessionResponse:
        if request.request_id in self._remembered:  # the session may be gone by now
            self.calls.append(request)
            await self._lose(context)
            return cast(session_pb2.ExportSessionResponse, self._remembered[request.request_id])
        session = await self.find(request, context, owned=True)

        def export() -> session_pb2.ExportSessionResponse:
            told = {"id": session.id, "model": session.model.name, "next_seq": session.next_seq, "acked": session.acked}
            state = {"total": session.total, "count": session.count, "numerics": NUMERICS}
            kept = {seq: None if each is None else each.tolist() for seq, each in session.kept.items()}
            if request.close:
                self._server.end_session(session.id, inference_pb2.DETACH_REASON_SESSION_MOVED)
            snapshot = json.dumps({**told, **state, "kept": kept}).encode()
            return session_pb2.ExportSessionResponse(snapshot=snapshot, next_seq=session.next_seq)

        await self._reach(session, request, context)
        return await self._once(request.request_id, export, context)

    async def ImportSession(self, request: session_pb2.ImportSessionRequest, context: Any) -> session_pb2.ImportSessionResponse:
        self.calls.append(request)
        try:
            told = json.loads(request.snapshot)
        except ValueError:
            await self._fail(context, grpc.StatusCode.DATA_LOSS, "SNAPSHOT_CORRUPT")
        id = request.id or told["id"]
        if id in self._server.sessions and request.request_id not in self._remembered:
            await self._fail(context, grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")

        def bring_in() -> session_pb2.ImportSessionResponse:
            session = self._server.new_session(id, self._server.models[told["model"]])
            session.next_seq, session.acked = told["next_seq"], told["acked"]
            session.total, session.count = told["total"], told["count"]
            session.kept = {int(seq): each and np.array(each, np.float32) for seq, each in told["kept"].items()}
            session.durable, session.durable_seq = request.durable, session.next_seq
            session.remember()
            same = session.bitwise = told["numerics"] == NUMERICS
            return session_pb2.ImportSessionResponse(session=describe(session), secret=session.secret, bitwise=same)

        return await self._once(request.request_id, bring_in, context)

    async def step(self, request: inference_pb2.StepRequest, context: Any) -> inference_pb2.StepResponse:
        """The unary Step of the inference service."""
        session = await self.find(request, context, owned=True)
        seq = request.seq if request.HasField("seq") else session.next_seq
        if seq > session.next_seq:
            await self._fail(context, grpc.StatusCode.ABORTED, "SEQUENCE_MISMATCH", session.next_seq)
        if seq == session.next_seq:
            session.total += sum(sum(values.numbers) for values in request.inputs.values())
            session.count += 1
            session.next_seq += 1
            session.kept[seq] = np.array([session.total, -session.total, session.count], np.float32)
        await self._lose(context)
        outcome = session.kept[seq]
        numbers = [] if outcome is None else outcome.tolist()
        outputs = {"total": inference_pb2.Values(numbers=numbers[:2]), "count": inference_pb2.Values(numbers=numbers[2:])}
        return inference_pb2.StepResponse(seq=seq, next_seq=session.next_seq, outputs=outputs)

    async def find(self, request: Any, context: Any, *, owned: bool = False) -> FakeSession:
        """The session that a request names. owned: which only its owner may name while a stream holds it."""
        self.calls.append(request)
        await self._server.tell()
        id = request.session_id if hasattr(request, "session_id") else request.id
        session = self._server.sessions.get(id)
        if session is None or session.model.name != request.model:
            await self._fail(context, grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND")
        if owned and request.secret and request.secret != session.secret:
            await self._fail(context, grpc.StatusCode.PERMISSION_DENIED, "SECRET_MISMATCH")
        if owned and session.stream is not None and not request.secret:
            await self._fail(context, grpc.StatusCode.FAILED_PRECONDITION, "SESSION_IN_USE")
        return session

    async def _reach(self, session: FakeSession, request: Any, context: Any) -> None:
        """Waits until the session stands where the copy is to begin."""
        if self.draining and isinstance(request, session_pb2.ForkSessionRequest):
            self._server.announce_drain()
            await self._fail(context, grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")
        admitted = session.next_seq + session.pending
        at = request.at_seq if request.HasField("at_seq") else admitted
        if at > admitted:
            await self._fail(context, grpc.StatusCode.ABORTED, "SEQUENCE_MISMATCH", admitted)
        if at < session.next_seq:
            await self._fail(context, grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_PASSED", session.next_seq)
        await self._server.until(lambda: session.next_seq >= at)

    async def _once(self, request_id: str, do: Callable[[], Answer], context: Any) -> Answer:
        """What was answered to the same request before; else does it."""
        answer = cast(Answer | None, self._remembered.get(request_id))
        if answer is None:
            answer = do()
            if request_id:
                self._remembered[request_id] = answer
        self.copies += 1
        await self._server.tell()
        await self.answering.wait()
        await self._lose(context)
        return answer

    async def _lose(self, context: Any) -> None:
        if self.lose_answers:
            self.lose_answers -= 1
            await abort(context, status_pb2.Status(code=14, message="lost on the way"))

    def _make(self, id: str, original: FakeSession) -> session_pb2.OpenedSession:
        if id in self._server.sessions:
            problem = common_pb2.Error(code=6, reason="SESSION_EXISTS", message=f"session {id!r} exists")
            return session_pb2.OpenedSession(error=problem)
        fork = self._server.new_session(id, original.model)
        fork.next_seq = fork.acked = original.next_seq
        fork.total, fork.count = original.total, original.count
        return session_pb2.OpenedSession(id=id, secret=fork.secret)

    async def _fail(self, context: Any, code: grpc.StatusCode, reason: str, expected: int | None = None) -> NoReturn:
        metadata = {} if expected is None else {"expectedSeq": str(expected)}
        await abort(context, failed_call(code, reason, f"refused: {reason}", metadata=metadata))
        raise RuntimeError("ended")


def describe(session: FakeSession) -> session_pb2.Session:
    """A session as the service tells of it. Ages are made up."""
    return session_pb2.Session(
        model=session.model.name,
        version=session.model.version,
        id=session.id,
        status=session_pb2.SESSION_STATUS_OPEN,
        next_seq=session.next_seq,
        acked=session.acked,
        pending_steps=session.pending,
        age=Duration(seconds=2, nanos=500_000_000),
        idle=Duration(seconds=1),
        idle_ttl=Duration(seconds=600),
        attached=session.stream is not None,
        slot=3,
        durable=session.durable,
        durable_seq=session.durable_seq,
    )
