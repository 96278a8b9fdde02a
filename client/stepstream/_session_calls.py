"""What a client does with sessions besides stepping them on its stream: it looks at them, copies, moves, closes them, and has
them rolled out.

Copies are made by calls of their own and then attached to the stream. What knows the stream is the client itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar, overload
from uuid import uuid4

import grpc
import numpy as np
from google.protobuf.message import Message

from stepstream._arguments import at_least_one, step_count, version_number
from stepstream._backoff import Backoff
from stepstream._calls import Outputs
from stepstream._errors import InvalidArgument
from stepstream._group import SessionGroup
from stepstream._group_error import GroupError
from stepstream._models import ModelInfo
from stepstream._opening import Opening
from stepstream._rollout import Course, Piece, Rollout, messages, pieces
from stepstream._rollout_request import Commit, Stop, address, rollout_request
from stepstream._session import Session
from stepstream._session_info import SessionInfo, session_info
from stepstream._tensors import Array, Values, pack
from stepstream._translation import from_wire
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, session_pb2, session_pb2_grpc

Response = TypeVar("Response")


class SessionCalls(ABC):
    """The calls of a client about sessions that it need not hold.

    Where a `secret` can be given, it is needed only while a stream holds the session. version: the one that the session was
    opened with; None is the newest served.
    """

    async def get_session(self, model: str, id: str, *, version: int | None = None) -> SessionInfo:
        """What can be known about an open session without touching it. Raises SessionNotFound or how it has ended."""
        request = session_pb2.GetSessionRequest(model=model, version=version_number(version), id=id)
        return session_info((await self._call(self._sessions().GetSession, request)).session)

    async def list_sessions(
        self, model: str | None = None, *, version: int | None = None, page_size: int = 1000
    ) -> AsyncGenerator[SessionInfo, None]:
        """Every open session, of one model or of all (None), of one version or of all (None), in no particular order.

        page_size: sessions per call to the server, which sends at most 1,000 at once; the next call is made when they are used
        up. A session that is opened or closed meanwhile may be missing, none comes twice.
        """
        request = session_pb2.ListSessionsRequest(
            model=model or "", version=version_number(version), page_size=min(at_least_one("page_size", page_size), 1000)
        )
        while True:
            page = await self._call(self._sessions().ListSessions, request)
            for session in page.sessions:
                yield session_info(session)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def close_session(self, model: str, id: str, *, secret: bytes | None = None, version: int | None = None) -> int:
        """Closes a session. Returns the steps and resets that had been applied, 0 if it was closed already.

        Raises SessionInUse while a stream holds it and no secret is given, SecretMismatch, SessionNotFound.
        """
        request = session_pb2.CloseSessionRequest(model=model, version=version_number(version), id=id, secret=secret or b"")
        return int((await self._call(self._sessions().CloseSession, request)).next_seq)

    async def step(
        self,
        model: str,
        id: str,
        values: Values,
        *,
        seq: int | None = None,
        secret: bytes | None = None,
        version: int | None = None,
    ) -> Outputs:
        """Applies one step to a session by a call of its own: values and result as those of `Session.step`. For a step now and
        then; a session that is held (`open_session`, `attach_session`) is stepped many times faster.

        seq: the step's number. With it, the same call made again is answered as before and does not move the state twice; it
        says too that all answers below have been received. None: the next free number; the answer is not kept, so that after
        an error of the connection nobody can tell whether the step was applied. Give `version` to save asking for the model.
        """
        number = None if seq is None else step_count("seq", seq)
        info = await self._model(model, version_number(version))
        _, packed = pack(info, values, ())
        inputs = {
            spec.name: inference_pb2.Values(numbers=np.frombuffer(piece, spec.dtype.newbyteorder("<")).tolist())
            for spec, piece in zip(info.inputs, packed, strict=True)
        }
        request = inference_pb2.StepRequest(
            model=model, version=info.version, session_id=id, secret=secret or b"", seq=number, inputs=inputs
        )
        method = inference_pb2_grpc.InferenceServiceStub(self._open()).Step
        response = await self._call(method, request, repeatable=number is not None)
        outputs: dict[str, Array] = {
            spec.name: np.array(response.outputs[spec.name].numbers, spec.dtype).reshape(spec.shape) for spec in info.outputs
        }
        return outputs

    def generate(
        self,
        model: str,
        prompt: Values | None,
        *,
        max_steps: int,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.0,
        greedy: bool = False,
        stop: Stop = (),
        seed: int | None = None,
        commit: Commit = "end",
        id: str | None = None,
        secret: bytes | None = None,
        version: int | None = None,
    ) -> Rollout:
        """A rollout by a call of its own; otherwise as `Session.generate`. Without an id it begins at the initial state, and
        nothing is left of it. With one, it goes on from where that session stands behind what is pending.

        If the connection breaks before the first piece of one that commits, nobody can tell whether it was applied: it raises
        ConnectionLost or Unavailable. Also raises SessionInUse while a stream holds the session and no secret is given.
        """
        request = rollout_request(
            max_steps=max_steps,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            greedy=greedy,
            seed=seed,
            commit=commit,
        )
        request.session_id, request.secret = id or "", secret or b""
        if id is None:
            request.commit = inference_pb2.COMMIT_NONE
        number = version_number(version)

        async def run(course: Course) -> AsyncGenerator[Piece, None]:
            info = await self._model(model, number)
            address(request, info, prompt, stop)
            writer = info._codec.writer() if info._codec else None
            async with aclosing(pieces(self._roll(request, info), info, course, writer=writer)) as source:
                async for piece in source:
                    yield piece

        return Rollout(request.seed, run)

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
        wanted = 1 if count is None else at_least_one("count", count)
        if ids is not None and len(ids) != wanted:
            raise InvalidArgument(f"ids: expected {wanted}, got {len(ids)}")
        request = session_pb2.ForkSessionRequest(
            model=model,
            version=version_number(version),
            id=id,
            secret=secret or b"",
            at_seq=None if at is None else step_count("at", at),
            fork_ids=ids or [],
            count=wanted,
            request_id=uuid4().hex,
        )
        response = await self._call(self._sessions().ForkSession, request)
        errors = {index: from_wire(each.error) for index, each in enumerate(response.sessions) if each.HasField("error")}
        keys = [(each.id, each.secret) for each in response.sessions if not each.HasField("error")]
        group = await self._attach_group(model, request.version, keys, made=True) if keys else None
        if group is None or errors:
            if group is not None:
                await group.close()
            raise errors[0] if count is None else GroupError(errors, np.array([each not in errors for each in range(wanted)]))
        return group[0] if count is None else group

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
        request = session_pb2.ExportSessionRequest(
            model=model,
            version=version_number(version),
            id=id,
            secret=secret or b"",
            at_seq=None if at is None else step_count("at", at),
            close=close,
            request_id=uuid4().hex if close else "",
        )
        return bytes((await self._call(self._sessions().ExportSession, request)).snapshot)

    def import_session(self, snapshot: bytes, *, id: str | None = None, acked: int | None = None) -> Opening[Session]:
        """Makes a session of a snapshot, attached like one of `open_session` and used in the same ways.

        id: None is the id in the snapshot. acked: as in `attach_session`, for answers that the snapshot brings along and that
        nobody has received. Whether the session will give the very bits that it would have given where it was exported,
        its `bitwise` tells. Raises SessionExists, SnapshotCorrupt, ModelNotFound, ModelMismatch, SessionCapacity.
        """
        count = None if acked is None else step_count("acked", acked)

        async def import_it() -> Session:
            request = session_pb2.ImportSessionRequest(snapshot=snapshot, id=id or "", request_id=uuid4().hex)
            response = await self._call(self._sessions().ImportSession, request)
            made = response.session
            group = await self._attach_group(made.model, made.version, [(made.id, response.secret)], count, made=True)
            group[0].bitwise = response.bitwise
            return group[0]

        return Opening(import_it)

    # What the client brings ------------------------------------------------------------------------------------------

    @abstractmethod
    def _open(self) -> grpc.aio.Channel:
        """The open channel."""

    @abstractmethod
    async def _call(self, method: Callable[..., Awaitable[Response]], message: Message, *, repeatable: bool = True) -> Response:
        """One call, whose errors are this package's."""

    @abstractmethod
    async def _model(self, name: str, version: int) -> ModelInfo:
        """The record of a model."""

    @abstractmethod
    def _patience(self) -> Backoff:
        """What there is with a server that cannot be reached, for one undertaking."""

    @abstractmethod
    async def _attach_group(
        self, model: str, version: int, keys: Sequence[tuple[str, bytes]], acked: int | None = None, *, made: bool = False
    ) -> SessionGroup:
        """Attaches sessions by id and secret. made: they were made for this call, so that they are closed if it fails."""

    def _roll(
        self, request: inference_pb2.GenerateRequest, model: ModelInfo, on_begun: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[inference_pb2.GenerateResponse, None]:
        method = inference_pb2_grpc.InferenceServiceStub(self._open()).Generate
        return messages(method, request, model, self._patience(), on_begun)

    def _sessions(self) -> session_pb2_grpc.SessionServiceStub:
        return session_pb2_grpc.SessionServiceStub(self._open())
