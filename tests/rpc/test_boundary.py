"""What surrounds every call: statuses for exceptions, counting, health, reflection, options."""

from __future__ import annotations

import threading
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from benchmarks import wire
from stepstream_proto.v1 import model_pb2
from stepstream_proto.v1.inference_pb2 import StepRequest
from stepstream_server.config import DoorSettings
from stepstream_server.rpc import reflection
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.server import SERVICES, RpcServer
from support.front_door import CountingStream, FrontDoor, front_door
from support.health import NOT_SERVING, SERVICE_UNKNOWN, SERVING, Watch, every_health, health

EVERYTHING_BUT_LIVENESS = ["", "readiness", *SERVICES, "inference.GRPCInferenceService"]


async def statuses(front: FrontDoor) -> dict[str, int]:
    """Health by service, asked for one by one and all at once."""
    told = {name: await health(front.channel, name) for name in [*EVERYTHING_BUT_LIVENESS, "liveness"]}
    assert await every_health(front.channel) == told
    return told


async def test_an_unknown_exception_tells_nothing(front: FrontDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller hears INTERNAL, the log has the traceback."""

    def leak(*_: Any) -> None:
        raise ValueError("password is swordfish")

    monkeypatch.setattr(Models, "find", leak)
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await front.inference.Step(StepRequest(model="counter"))
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert [str(each["exc_info"]) for each in logs] == ["password is swordfish"]


async def test_an_unknown_exception_on_a_stream_tells_nothing(stream: CountingStream, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where it is raised while reading."""

    def leak(*_: Any) -> None:
        raise ValueError("password is swordfish")

    monkeypatch.setattr(Models, "find", leak)
    with capture_logs() as logs:
        await stream.send_open("counter", [0])
        assert await stream.end() == (grpc.StatusCode.INTERNAL, "internal error")
    assert [str(each["exc_info"]) for each in logs] == ["password is swordfish"]


UNARY = [
    "stepstream.v1.SessionService/OpenSession",
    "inference.GRPCInferenceService/ModelInfer",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/List",
    "grpc.health.v1.Health/Watch",
]
STREAMS = [
    "stepstream.v1.InferenceService/Stream",
    "inference.GRPCInferenceService/ModelStreamInfer",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]


@pytest.mark.parametrize("path", UNARY)
async def test_noise_is_its_senders_fault(front: FrontDoor, path: str) -> None:
    """Refused with the type that was expected, counted like any call, and no matter for the log."""
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await cast("Any", front.channel).unary_unary("/" + path)(b"\xff" * 9)
    service, method = path.split("/")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Error parsing message with type" in str(caught.value.details())
    assert front.ended.get_nowait() == (service, method, "INVALID_ARGUMENT")
    assert not logs


@pytest.mark.parametrize("path", STREAMS)
async def test_noise_on_a_stream_is_its_senders_fault(front: FrontDoor, path: str) -> None:
    """The same where it is read."""
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        call = cast("Any", front.channel).stream_stream("/" + path)()
        await call.write(b"\xff" * 9)
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Error parsing message" in str(caught.value.details())
    assert not logs


async def test_calls_are_counted_with_their_codes(front: FrontDoor) -> None:
    """Service, method and code of every call, those of probes among them."""
    await front.catalogue.ListModels(model_pb2.ListModelsRequest())
    with pytest.raises(grpc.aio.AioRpcError):
        await front.catalogue.GetModel(model_pb2.GetModelRequest(name="none"))
    await every_health(front.channel)
    with pytest.raises(grpc.aio.AioRpcError):
        await health(front.channel, "none")
    ended = [front.ended.get_nowait() for _ in range(front.ended.qsize())]
    models, probes = "stepstream.v1.ModelService", "grpc.health.v1.Health"
    assert ended[:2] == [(models, "ListModels", "OK"), (models, "GetModel", "NOT_FOUND")]
    assert ended[2:] == [(probes, "List", "OK"), (probes, "Check", "NOT_FOUND")]


async def test_health_follows_the_servers_life() -> None:
    """Not serving while it warms up; serving; while it drains only liveness; after a crash nothing, for ever."""
    async with front_door(publish=False) as front:
        told = front.rpc.health
        expected = dict.fromkeys(EVERYTHING_BUT_LIVENESS, NOT_SERVING) | {"liveness": SERVING}
        assert await statuses(front) == expected
        told.serving()
        assert await statuses(front) == dict.fromkeys([*EVERYTHING_BUT_LIVENESS, "liveness"], SERVING)
        told.draining()
        told.serving()
        assert await statuses(front) == expected
        told.failed()
        assert await statuses(front) == dict.fromkeys([*EVERYTHING_BUT_LIVENESS, "liveness"], NOT_SERVING)


async def test_an_unknown_service_has_no_health(front: FrontDoor) -> None:
    """NOT_FOUND, as the protocol says; who watches it is told so and may wait for it."""
    with capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(front.channel, "other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "expected one of '', 'readiness', " in str(caught.value.details())
    assert await Watch(front.channel, "other").status() == SERVICE_UNKNOWN
    assert not logs


async def test_health_is_watched(front: FrontDoor) -> None:
    """A watcher hears what is, and each change; one that does not read, so that nothing can be written to it, holds up nobody."""
    deaf = wire.connect(front.address, window=0)
    stream = deaf.open_stream("/grpc.health.v1.Health/Watch")
    deaf.send(stream, health_pb2.HealthCheckRequest(service="readiness").SerializeToString(), last=True)
    deaf.flush()
    watch = Watch(front.channel, "readiness")
    assert await watch.status() == SERVING
    front.rpc.health.draining()
    assert await watch.status() == NOT_SERVING
    deaf.close()


async def test_watches_of_the_health_are_bounded() -> None:
    """There may be as many as streams: the next is refused until one has gone, and checks are answered all the while."""
    async with front_door(settings=DoorSettings(max_streams=2)) as front:
        watches = [Watch(front.channel, "readiness") for _ in range(2)]
        assert [await each.status() for each in watches] == [SERVING, SERVING]
        with pytest.raises(grpc.aio.AioRpcError, match="all 2 watches of the health are in use") as caught:
            await Watch(front.channel, "readiness").status()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await health(front.channel, "readiness") == SERVING
        assert front.ended.get_nowait() == ("grpc.health.v1.Health", "Watch", "RESOURCE_EXHAUSTED")
        watches[0].cancel()
        assert await ended(front, "Watch") == "CANCELLED"
        assert await Watch(front.channel, "readiness").status() == SERVING


async def ended(front: FrontDoor, method: str) -> str:
    """How the next call of a method ends."""
    while True:
        _, name, code = await front.ended.get()
        if name == method:
            return code


async def test_callers_of_reflection_are_bounded(front: FrontDoor) -> None:
    """They ask on a stream that they may hold for ever; none of them takes a thread."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    threads = threading.active_count()
    calls = [stub(front.channel).ServerReflectionInfo() for _ in range(100)]
    for call in calls:
        await call.write(request)
        assert (await call.read()).list_services_response.service
    assert threading.active_count() == threads
    with pytest.raises(grpc.aio.AioRpcError, match="all 100 reflection streams are in use"):
        call = stub(front.channel).ServerReflectionInfo()
        await call.read()
    for call in calls:
        call.cancel()


async def test_a_caller_of_reflection_does_not_stay(front: FrontDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream ends after a minute, for which this test does not wait."""
    monkeypatch.setattr(reflection, "SECONDS", 0.001)
    stub: Any = reflection_pb2_grpc.ServerReflectionStub
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub(front.channel).ServerReflectionInfo().read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_reflection_names_every_service(front: FrontDoor) -> None:
    """grpcurl finds the contract without its files."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub
    call = stub(front.channel).ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    names = {each.name for each in (await call.read()).list_services_response.service}
    assert names >= {*SERVICES, "grpc.health.v1.Health"}
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICES[0]))
    assert (await call.read()).file_descriptor_response.file_descriptor_proto
    call.cancel()


async def test_a_port_is_never_shared(front: FrontDoor) -> None:
    """A second server on the same address fails instead of taking half of the connections."""
    second = RpcServer(Models(), DoorSettings(), lambda *_: None, "0.0.0")
    with pytest.raises(OSError, match=f"cannot listen on {front.address}"):
        await second.start(front.address)


async def test_a_message_beyond_the_limit_ends_its_call() -> None:
    """Larger messages than the settings allow are refused by gRPC itself."""
    async with front_door(settings=DoorSettings(max_message_bytes=2048)) as front, CountingStream(front.channel) as stream:
        await stream.open("counter", [0])
        await stream.step([0], [0], [0.0] * 1000)
        assert (await stream.end())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
