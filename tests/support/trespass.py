"""The deeds of a caller who wants somebody else's sessions: by every call of the server, told as it was answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, session_pb2, session_pb2_grpc
from support.front_door import CountingStream
from support.generating import floats
from support.hostile.methods import Method, offered
from support.oip.wire import InferCall, add_column, infer_request
from support.planted import plant
from support.tenants import showing
from support.wire import StreamRequest, u32, u64

OWN, MADE = "own", "made"  # ids of sessions that a trespasser opens
CLIENT, NUMBER = "pump", 5  # a client that numbers its streams, and the number of its newest

_RANDOM = ("secret", "snapshot", "age", "idle", "slot")  # fields that differ whoever is asked
_HEALTH = "grpc.health.v1.Health"


class Target(NamedTuple):
    """A session that is not the trespasser's, by all that it might be reached by."""

    model: str
    id: str
    secret: bytes  # which the trespasser may have found
    number: int  # of a sequence
    request_id: str
    page_token: str
    snapshot: bytes


class Trespasser:
    """A caller, who notes all answers."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.told: list[str] = []
        self.got: list[bytes] = []  # secrets and snapshots, which are not in what was told
        self.inference = inference_pb2_grpc.InferenceServiceStub(channel)
        self.sessions = session_pb2_grpc.SessionServiceStub(channel)

    async def hear(self, call: Awaitable[Any]) -> None:
        """Notes how a call is answered, or all about how it is refused."""
        try:
            self.note(await call)
        except grpc.aio.AioRpcError as error:
            trailers = [(key, value) for key, value in error.trailing_metadata() or () if key.endswith("-bin")]
            self.told.append(f"{error.code()} {error.details()} {trailers}")

    async def hear_all(self, call: Any) -> None:
        """Hears a call with many answers, which is then over."""
        try:
            while (response := await call.read()) is not grpc.aio.EOF:
                self.note(response)
        except grpc.aio.AioRpcError:
            pass
        await self.hear(_end(call))

    def note(self, response: Any) -> None:
        """Notes an answer, but for what would be different if it were asked for again."""
        self.told.append(str(self._plainly(response)) if isinstance(response, Message) else repr(response))

    def _plainly(self, message: Message) -> Message:
        """A copy without what is random."""
        plainly = type(message)()
        plainly.CopyFrom(message)
        for each in _within(plainly):
            for name in _RANDOM:
                if name in each.DESCRIPTOR.fields_by_name:
                    value = getattr(each, name)
                    self.got += [plant(value)] if isinstance(value, bytes) and value else []
                    each.ClearField(name)
        return plainly


async def _end(call: Any) -> str:
    """The code of a call that is over. Raises AioRpcError if it has failed."""
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(code, await call.initial_metadata(), await call.trailing_metadata(), await call.details())
    return str(code)


def _within(message: Message) -> Iterator[Message]:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None and not descriptor.message_type.GetOptions().map_entry:
            for each in value if descriptor.is_repeated else [value]:
                yield from _within(each)


Attack = Callable[[Trespasser, Target], Awaitable[None]]


async def _get(who: Trespasser, at: Target) -> None:
    await who.hear(who.sessions.GetSession(session_pb2.GetSessionRequest(model=at.model, id=at.id)))


async def _close(who: Trespasser, at: Target) -> None:
    await who.hear(who.sessions.CloseSession(session_pb2.CloseSessionRequest(model=at.model, id=at.id, secret=at.secret)))


async def _list(who: Trespasser, at: Target) -> None:
    for model in ("", at.model):
        for token in ("", at.page_token):
            await who.hear(who.sessions.ListSessions(session_pb2.ListSessionsRequest(model=model, page_token=token)))


async def _fork(who: Trespasser, at: Target) -> None:
    for request_id in ("", at.request_id):
        for at_seq in (None, 1):
            request = session_pb2.ForkSessionRequest(
                model=at.model, id=at.id, secret=at.secret, at_seq=at_seq, fork_ids=[MADE], request_id=request_id
            )
            await who.hear(who.sessions.ForkSession(request))


async def _export(who: Trespasser, at: Target) -> None:
    for request_id in ("", at.request_id):
        for close in (False, True):
            request = session_pb2.ExportSessionRequest(
                model=at.model, id=at.id, secret=at.secret, close=close, request_id=request_id
            )
            await who.hear(who.sessions.ExportSession(request))


async def _import(who: Trespasser, at: Target) -> None:
    """Under the id in the snapshot, under another one, and as somebody else has asked for it."""
    for id in ("", MADE):
        for request_id in (at.request_id, ""):
            request = session_pb2.ImportSessionRequest(snapshot=at.snapshot, id=id, request_id=request_id)
            await who.hear(who.sessions.ImportSession(request))


async def _open(who: Trespasser, at: Target) -> None:
    for id in (MADE, at.id):
        for request_id in (at.request_id, ""):
            request = session_pb2.OpenSessionRequest(model=at.model, id=id, request_id=request_id)
            await who.hear(who.sessions.OpenSession(request))
    await _step(who, at)  # one's own, under the same id


async def _open_many(who: Trespasser, at: Target) -> None:
    for request_id in (at.request_id, ""):
        request = session_pb2.OpenSessionsRequest(model=at.model, count=2, ids=[MADE, at.id], request_id=request_id)
        await who.hear(who.sessions.OpenSessions(request))


async def _step(who: Trespasser, at: Target) -> None:
    for seq in (None, 0, 1):
        request = inference_pb2.StepRequest(model=at.model, session_id=at.id, secret=at.secret, seq=seq)
        request.inputs["x"].numbers.append(1.0)
        await who.hear(who.inference.Step(request))


async def _generate(who: Trespasser, at: Target) -> None:
    for commit in inference_pb2.Commit.keys():  # noqa: SIM118  # no dict
        request = inference_pb2.GenerateRequest(
            model=at.model, session_id=at.id, secret=at.secret, prompt=[floats(1.0)], max_steps=2, commit=commit
        )
        await who.hear_all(who.inference.Generate(request))


async def _attach(who: Trespasser, at: Target) -> None:
    """On a stream: attached, and whatever may be said of a handle."""
    row = inference_pb2.Block(handles=u32([0]), first_seqs=u64([0]), inputs=[floats(1.0)])
    async with CountingStream(who.channel) as stream:
        await stream.send_attach(at.model, 0, at.id, at.secret)
        who.note(await stream.receive())
        await stream.send(StreamRequest(acknowledge=inference_pb2.Acknowledge(handles=u32([0]), counts=u64([1]))))
        for request in (
            StreamRequest(block=row),
            StreamRequest(reset=inference_pb2.Reset(handles=u32([0]), seqs=u64([0]))),
            StreamRequest(detach=inference_pb2.Detach(handles=u32([0]), close=True)),
        ):
            await stream.send(request)
            who.note(await stream.receive())


async def _open_on_stream(who: Trespasser, at: Target) -> None:
    """Under the id, and as somebody else has asked for it."""
    async with CountingStream(who.channel) as stream:
        for handle, (id, request_id) in enumerate([(MADE, at.request_id), (at.id, at.request_id), (at.id, "")]):
            opening = inference_pb2.OpenOnStream(model=at.model, handles=u32([handle]), ids=[id], request_id=request_id)
            await stream.send(StreamRequest(open=opening))
            who.note(await stream.receive())


async def _call_itself_the_same(who: Trespasser, at: Target) -> None:
    """Under the name of somebody else's client, with older and newer numbers."""
    for number in (NUMBER - 1, NUMBER, NUMBER + 1000):
        metadata = (("stepstream-client", CLIENT), ("stepstream-stream", str(number)))
        async with CountingStream(showing(who.channel, *metadata)) as stream:
            for handle, id in enumerate((f"{OWN}{number}", at.id)):
                await stream.send_attach(at.model, handle, id, at.secret)
                who.note(await stream.receive())
            await stream.send(StreamRequest(open=inference_pb2.OpenOnStream(model=at.model, handles=u32([9]), ids=[str(number)])))
            who.note(await stream.receive())


def _sequences(at: Target) -> Iterator[oip_pb2.ModelInferRequest]:
    """Requests of one sequence, by a string and by a number, and of some: to go on, to end, to start and end."""
    flags: tuple[Mapping[str, Any], ...] = ({}, {"step": 1}, {"end": True}, {"start": True}, {}, {"end": True})
    for which in (at.id, at.number):
        for flag in flags:
            yield infer_request(at.model, [1.0], which, **flag)
    for start in (False, True, False):
        request = infer_request(at.model, [[1.0], [1.0]])
        add_column(request, "SEQUENCE_ID", [at.id, OWN])
        add_column(request, "SEQUENCE_START", [start, True])
        yield request


async def _infer(who: Trespasser, at: Target) -> None:
    described = ("/inference.GRPCInferenceService/ModelInfer", oip_pb2.ModelInferRequest.SerializeToString)
    method = who.channel.unary_unary(*described, oip_pb2.ModelInferResponse.FromString)
    for request in _sequences(at):
        await who.hear(method(request))


async def _infer_on_stream(who: Trespasser, at: Target) -> None:
    call = InferCall(who.channel)
    for request in _sequences(at):
        await call.send(request)
        who.note(*await call.receive())
    await call.end()


def _asked(method: Method, request: bytes = b"") -> Attack:
    """Asks by a call that names no session, which is one question."""

    async def ask(who: Trespasser, at: Target) -> None:
        untyped: Any = who.channel
        if not method.client_streams and not method.server_streams:
            await who.hear(untyped.unary_unary(method.path)(request))
            return
        call = untyped.stream_stream(method.path)()
        await call.write(request)
        who.note(await call.read())
        call.cancel()

    return ask


_WORDS = {  # requests where an empty one asks for nothing
    "GetModel": b"\x0a\x07counter",
    "ModelMetadata": b"\x0a\x07counter",
    "ModelConfig": b"\x0a\x07counter",
    "ServerReflectionInfo": b"\x3a\x00",
}
OF_SESSIONS: dict[str, tuple[Attack, ...]] = {  # by the path of the call
    "/stepstream.v1.SessionService/OpenSession": (_open,),
    "/stepstream.v1.SessionService/OpenSessions": (_open_many,),
    "/stepstream.v1.SessionService/GetSession": (_get,),
    "/stepstream.v1.SessionService/ListSessions": (_list,),
    "/stepstream.v1.SessionService/CloseSession": (_close,),
    "/stepstream.v1.SessionService/ForkSession": (_fork,),
    "/stepstream.v1.SessionService/ExportSession": (_export,),
    "/stepstream.v1.SessionService/ImportSession": (_import,),
    "/stepstream.v1.InferenceService/Stream": (_attach, _open_on_stream, _call_itself_the_same),
    "/stepstream.v1.InferenceService/Step": (_step,),
    "/stepstream.v1.InferenceService/Generate": (_generate,),
    "/inference.GRPCInferenceService/ModelInfer": (_infer,),
    "/inference.GRPCInferenceService/ModelStreamInfer": (_infer_on_stream,),
}
_OF_NO_SESSION = {
    "/stepstream.v1.ModelService/ListModels",
    "/stepstream.v1.ModelService/GetModel",
    *(f"/inference.GRPCInferenceService/{name}" for name in ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady")),
    *(
        f"/inference.GRPCInferenceService/{name}"
        for name in ("ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex")
    ),
    *(method.path for method in offered() if method.request is Empty),  # which are only refused
    *(f"/{_HEALTH}/{name}" for name in ("Check", "List", "Watch")),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}

ATTACKS: dict[str, tuple[Attack, ...]] = OF_SESSIONS | {
    method.path: (_asked(method, _WORDS.get(method.name, b"")),) for method in offered() if method.path in _OF_NO_SESSION
}
"""By the path of the call. All calls must be among them."""

LOOKUPS: tuple[Attack, ...] = (_get, _close, _fork, _export, _step, _generate, _attach)
"""Those that open nothing: where there is no such session, they find none."""
