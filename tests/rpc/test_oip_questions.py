"""The Open Inference Protocol's questions about the server and its models, over the wire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_proto.v1.inference_pb2 import StepRequest, Values
from stepstream_proto.v1.session_pb2 import OpenSessionRequest
from stepstream_server.config import DoorSettings
from stepstream_server.rpc.models import Models
from stepstream_server.rpc.oip.service import ABSENT
from support.backend import counter_spec
from support.front_door import FrontDoor, front_door, wait_for

SERVICE = "inference.GRPCInferenceService"


async def ask(front: FrontDoor, method: str, **fields: Any) -> Any:
    """The response to a request with these fields."""
    request = getattr(oip_pb2, f"{method}Request")
    response = getattr(oip_pb2, f"{method}Response")
    call = front.channel.unary_unary(f"/{SERVICE}/{method}", request.SerializeToString, response.FromString)
    return await call(request(**fields))


async def refusal(front: FrontDoor, method: str, **fields: Any) -> tuple[grpc.StatusCode, str]:
    """How a question that must not be answered is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(front, method, **fields)
    return caught.value.code(), str(caught.value.details())


@pytest_asyncio.fixture
async def models() -> AsyncIterator[FrontDoor]:
    """Models `a` and `b`."""
    async with front_door("b", "a", max_batch=16, idle_ttl_seconds=7.0) as front:
        yield front


async def readiness(front: FrontDoor) -> tuple[bool, bool, bool]:
    """Whether the server lives, whether it is ready, whether model `counter` is."""
    live, ready = await ask(front, "ServerLive"), await ask(front, "ServerReady")
    return live.live, ready.ready, (await ask(front, "ModelReady", name="counter")).ready


async def test_readiness_follows_the_servers_life() -> None:
    """Alive while it warms up and while it drains, ready in between."""
    async with front_door(publish=False) as front:
        assert await readiness(front) == (True, False, False)
        (model,) = (await ask(front, "RepositoryIndex")).models
        assert (model.name, model.version, model.state, model.reason) == ("counter", "1", "LOADING", "models are being warmed up")
        assert not (await ask(front, "RepositoryIndex", ready=True)).models
    async with front_door() as front:
        assert await readiness(front) == (True, True, True)
        front.rpc.health.draining()
        assert await readiness(front) == (True, False, False)
        front.rpc.health.serving()
        assert await readiness(front) == (True, False, False)
        front.rpc.health.failed()
        assert await readiness(front) == (False, False, False)


async def test_a_model_that_is_not_served_is_not_ready(models: FrontDoor) -> None:
    """Asking is no error, unless no version could be called so."""
    assert (await ask(models, "ModelReady", name="a", version="1")).ready
    assert not (await ask(models, "ModelReady", name="a", version="2")).ready
    assert not (await ask(models, "ModelReady", name="c")).ready
    code, message = await refusal(models, "ModelReady", name="a", version="newest")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("INVALID_ARGUMENT: version: expected a number")


async def test_the_server_says_which_extensions_it_has(models: FrontDoor) -> None:
    """Clients look there before they use one: nothing is told that is not there."""
    metadata = await ask(models, "ServerMetadata")
    assert (metadata.name, metadata.version) == ("stepstream", "0.0.0")
    assert list(metadata.extensions) == ["sequence", "sequence(string_id)", "model_configuration", "statistics"]


async def test_models_are_described(models: FrontDoor) -> None:
    """Metadata and configuration of the newest version or of the one that is asked for."""
    metadata = await ask(models, "ModelMetadata", name="a")
    assert (metadata.name, list(metadata.versions), list(metadata.inputs[0].shape)) == ("a", ["1"], [-1, 1])
    assert await ask(models, "ModelMetadata", name="a", version="1") == metadata
    config = (await ask(models, "ModelConfig", name="a")).config
    assert (config.name, config.max_batch_size) == ("a", 16)
    assert config.sequence_batching.max_sequence_idle_microseconds == 7_000_000


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
async def test_unknown_models_are_not_found(models: FrontDoor, method: str) -> None:
    """The error names what is served; a version that is none is refused by its field."""
    assert await refusal(models, method, name="c") == (
        grpc.StatusCode.NOT_FOUND,
        "MODEL_NOT_FOUND: model: 'c' is not served; served: a, b",
    )
    assert (await refusal(models, method, name="a", version="2"))[0] is grpc.StatusCode.NOT_FOUND
    assert (await refusal(models, method, name="a", version="v1"))[0] is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
async def test_models_that_are_not_warm_are_not_described(method: str) -> None:
    """UNAVAILABLE, which clients try again."""
    async with front_door(publish=False) as front:
        assert (await refusal(front, method, name="counter"))[0] is grpc.StatusCode.UNAVAILABLE


async def test_statistics_of_one_model_or_of_all(models: FrontDoor) -> None:
    """A version without a model's name asks for nothing that there is."""

    async def named(**fields: str) -> list[tuple[str, str]]:
        stats = await ask(models, "ModelStatistics", **fields)
        return [(each.name, each.version) for each in stats.model_stats]

    assert await named() == [("a", "1"), ("b", "1")]
    assert await named(name="b") == await named(name="b", version="1") == [("b", "1")]
    code, message = await refusal(models, "ModelStatistics", version="1")
    assert (code, message) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT: version: expected none without a name, got '1'",
    )


async def test_the_index_tells_which_models_are_ready(models: FrontDoor) -> None:
    """All are served or none is: while the server drains, none is left among those that are ready."""

    async def index(ready: bool) -> list[tuple[str, str, str, str]]:
        found = await ask(models, "RepositoryIndex", ready=ready)
        return [(each.name, each.version, each.state, each.reason) for each in found.models]

    assert await index(False) == await index(True) == [("a", "1", "READY", ""), ("b", "1", "READY", "")]
    models.rpc.health.draining()
    assert await index(True) == []
    assert [each[2:] for each in await index(False)] == [("UNLOADING", "the server is about to stop")] * 2


async def test_there_is_one_repository(models: FrontDoor) -> None:
    """It has no name to ask for."""
    code, message = await refusal(models, "RepositoryIndex", repository_name="/models")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith("INVALID_ARGUMENT: repository_name: expected none")


def test_models_are_known_before_they_are_warm() -> None:
    """By name, then version."""
    specs = [replace(counter_spec("b"), version=2), counter_spec("b"), counter_spec("a")]
    models = Models(specs)
    assert [(spec.name, spec.version) for spec in models.specs] == [("a", 1), ("b", 1), ("b", 2)]
    assert not models.published


@pytest.mark.parametrize("method", sorted(ABSENT))
async def test_calls_without_a_counterpart_say_what_to_do_instead(front: FrontDoor, method: str) -> None:
    """UNIMPLEMENTED with a sentence, rather than gRPC's bare refusal."""
    call = front.channel.unary_unary(f"/{SERVICE}/{method}", bytes, bytes)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.UNIMPLEMENTED,
        f"NOT_IMPLEMENTED: {method}: {ABSENT[method]}",
    )


async def test_calls_are_counted_with_their_codes(front: FrontDoor) -> None:
    """As those of the contract are."""
    await ask(front, "ServerLive")
    await refusal(front, "ModelConfig", name="none")
    ended = [await asyncio.wait_for(front.ended.get(), 60) for _ in range(2)]  # counted once the caller has been answered
    assert ended == [(SERVICE, "ServerLive", "OK"), (SERVICE, "ModelConfig", "NOT_FOUND")]


async def test_an_unknown_exception_tells_nothing(front: FrontDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller hears INTERNAL without the text."""

    def leak(*_: Any) -> None:
        raise ValueError("password is swordfish")

    monkeypatch.setattr(Models, "find", leak)
    assert await refusal(front, "ModelConfig", name="counter") == (grpc.StatusCode.INTERNAL, "ENGINE_FAILED: internal error")


async def test_calls_are_bounded() -> None:
    """Beyond `door.max_calls` at once they are refused; calls of the contract take places, too."""
    async with front_door(settings=DoorSettings(max_calls=1)) as front:
        gate = front.models["counter"].gate
        opened = await front.sessions.OpenSession(OpenSessionRequest(model="counter", id="s"))
        gate.close()
        step = StepRequest(model="counter", session_id="s", secret=opened.secret, inputs={"x": Values(numbers=[1.0])})
        waiting = asyncio.ensure_future(front.inference.Step(step))
        await wait_for(gate.reached)
        assert await refusal(front, "ServerReady") == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL: all 1 calls are in use")
        gate.open()
        await waiting
        assert (await ask(front, "ServerReady")).ready
