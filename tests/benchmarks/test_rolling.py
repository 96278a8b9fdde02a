"""The generator of rollouts: it counts what was drawn, and sees whatever is not as it should be."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from benchmarks.bare_rollout import BareRollout
from benchmarks.process import Server, cpu_seconds, running, serve_command
from benchmarks.rolling import Caller, RollingPlan, measure
from benchmarks.wire import Connection, WireError
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc
from stepstream_server.bundles import write
from support.models import random_model

PLAN = RollingPlan("unused", 0, "model", width=1, tokens=5, callers=3, prompt_steps=2, max_steps=4, temperature=0.8)
ENDED_BY_SERVER = bytes([0, 0, 0, 1, 5, 0, 0, 0, 1])  # a HEADERS frame that ends stream 1 and has no fields
GOES_ON, AT_ITS_LENGTH = inference_pb2.ROLLOUT_ENDING_UNSPECIFIED, inference_pb2.ROLLOUT_ENDING_LENGTH

TOKENS: dict[str, Any] = {"tokens": 5, "outputs": 5, "name": "tokens"}  # as `random_model` makes what the server has

Pair = tuple[Connection, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connection, and the other side of it."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Connection(ours, "nobody"), theirs


def _caller(connection: Connection, plan: RollingPlan = PLAN) -> Caller:
    """One that has asked for a rollout, whose draws are 2 to 5."""
    caller = Caller(connection, plan, 1)
    caller.begin()
    return caller


def _drawn(first: int, steps: int, ending: inference_pb2.RolloutEnding = GOES_ON) -> bytes:
    """So many tokens."""
    return _message(first, first + steps, ending, tokens=bytes(8 * steps))


def _message(
    first: int, following: int, ending: inference_pb2.RolloutEnding = GOES_ON, tokens: bytes = b"", values: bytes = b""
) -> bytes:
    response = inference_pb2.GenerateResponse(first_seq=first, next_seq=following, tokens=tokens, values=values, ending=ending)
    return response.SerializeToString()


def test_draws_count_however_they_are_put_into_messages(pair: Pair) -> None:
    """One at a time or several: each counts once, and the first one says how long the caller had to wait."""
    caller = _caller(pair[0])
    caller.take(_drawn(2, 1), now=1e9)
    caller.take(_drawn(3, 2), now=2e9)
    assert (caller.draws, caller.messages, caller.ended) == (3, 2, 0)
    assert len(caller.first_seconds) == 1
    assert 0 < caller.first_seconds[0] < 1e9


def test_values_of_numeric_models_count_too(pair: Pair) -> None:
    """A draw is as many float32 values as the model's input has."""
    caller = _caller(pair[0], dataclasses.replace(PLAN, width=3, tokens=0))
    caller.take(_message(2, 4, values=bytes(2 * 3 * 4)), now=0.0)
    assert (caller.draws, caller.messages) == (2, 1)


def test_a_rollout_that_has_ended_is_followed_by_another(pair: Pair) -> None:
    """Its draws are numbered from behind the prompt again, and its first one is timed as well."""
    caller = _caller(pair[0])
    caller.take(_drawn(2, 4, AT_ITS_LENGTH), now=0.0)
    caller.take(_drawn(2, 1), now=0.0)
    assert (caller.draws, caller.ended, len(caller.first_seconds)) == (5, 1, 2)


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (_drawn(3, 1), "expected draws from 2 on"),
        (_drawn(1, 1), "expected draws from 2 on"),
        (_drawn(2, 0), "expected draws from 2 on"),
        (_message(2, 3, tokens=bytes(9)), "expected draws from 2 on"),
        (_message(2, 4, tokens=bytes(8)), "expected draws from 2 on"),
        (_drawn(2, 3, AT_ITS_LENGTH), "expected the last draw to be 5"),
        (_drawn(2, 4), "expected the last draw to be 5"),
        (_drawn(2, 5), "expected the last draw to be 5"),
    ],
    ids=["missing", "repeated", "none", "not whole", "another count", "too early an end", "no end", "too many"],
)
def test_draws_that_are_not_right_are_an_error(pair: Pair, message: bytes, what: str) -> None:
    """A draw that is missing, repeated, cut, or beyond what was asked for ends the run, and so does a wrong end."""
    caller = _caller(pair[0])
    with pytest.raises(WireError, match=what):
        caller.take(message, now=0.0)


def test_a_rollout_that_the_server_breaks_off_is_an_error(pair: Pair) -> None:
    """A call that ends before its rollout does is not waited for; one that ends behind it is as it should be."""
    connection, server = pair
    caller = _caller(connection)
    server.sendall(_data_frame(_drawn(2, 1)) + ENDED_BY_SERVER)
    for _, message in connection.receive():
        caller.take(message, now=0.0)
    with pytest.raises(WireError, match="ended a rollout before draw 3 of 6"):
        caller.check()
    caller.take(_drawn(3, 3, AT_ITS_LENGTH), now=0.0)
    caller.check()


def _data_frame(message: bytes) -> bytes:
    payload = b"\0" + len(message).to_bytes(4, "big") + message
    return len(payload).to_bytes(3, "big") + bytes([0, 0, 0, 0, 0, 1]) + payload


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a small model of five tokens."""
    spec, weights = random_model(**TOKENS)
    folder = tmp_path_factory.mktemp("models")
    write(folder / spec.name, spec, weights)
    with running(serve_command(folder)) as server:
        yield server


@pytest.mark.parametrize("max_steps", [1, (1 << 32) - 1], ids=["one draw each", "endless"])
def test_rollouts_are_read_until_the_time_is_over(server: Server, max_steps: int) -> None:
    """Draws count that come between two moments; ends do not stop the load, and nothing has to end."""
    plan = dataclasses.replace(PLAN, address=server.address, pid=server.pid, model="tokens", max_steps=max_steps)
    result = measure(dataclasses.replace(plan, warm_up_seconds=0.0, seconds=0.2))
    assert result.steps >= result.blocks > 0
    assert (result.steps == result.blocks) or max_steps > 1
    assert 0 < result.p50 <= result.p99 <= result.p999
    assert cpu_seconds(server.pid) > 0


def test_bare_rollout_draws_what_the_server_draws(server: Server) -> None:
    """The bare kernel that is fed with its own draws gives the server's tokens for the same prompt, temperature and seed, however
    often it is asked for more."""
    prompt = [3, 1, 4]
    request = inference_pb2.GenerateRequest(
        model="tokens", prompt=[np.array(prompt, "<i8").tobytes()], max_steps=200, temperature=0.8, seed=11
    )
    with grpc.insecure_channel(server.address) as channel:
        served = b"".join(each.tokens for each in inference_pb2_grpc.InferenceServiceStub(channel).Generate(request))
    bare = BareRollout(*random_model(**TOKENS), prompt, temperature=0.8, seed=11)
    assert bare.draw(80) + bare.draw(120) == np.frombuffer(served, "<i8").tolist()


def test_bare_rollout_wants_a_model_of_tokens() -> None:
    """A model that predicts no token cannot be rolled out so."""
    with pytest.raises(ValueError, match="readings: expected a model that predicts its next token"):
        BareRollout(*random_model(name="readings"), [], temperature=0.8, seed=0)
