"""Rollouts that cannot begin, or that fail. Each scenario's docstring is the situation in docs/errors.md."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from stepstream import Session
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc
from stepstream_server.spec import ModelSpec
from support.echo import ring_backend, ring_spec
from support.errors.desk import HELD, POISON, VENOM, desk
from support.errors.heard import Heard
from support.front_door import front_door
from support.generating import FOREVER, engine_when, floats, request, small_window, tokens, whole
from support.wide import WideBackend, wide_spec

_WIDTH = 1024  # float32 numbers: with the count beside them a step's outputs are just too many

EACH = inference_pb2.COMMIT_EACH
_ENDLESS: dict[str, Any] = {"prompt": [floats(0)], "max_steps": FOREVER}


async def another_beginning(heard: Heard) -> None:
    """A rollout is to begin at another step than the session's next."""
    async with desk() as at:
        await heard.call(at.generate(seq=0))
        await heard.call(at.generate(seq=2))


async def no_room(heard: Heard) -> None:
    """A rollout wants more paths of `engine.max_rollout_paths`, or a longer prompt, than its caller may have now."""
    async with desk(max_rollout_paths=1) as at, at.client() as client:
        session = await client.open_session("counter")
        going = at.front.inference.Generate(request(model="counter", prompt=[floats(0)], max_steps=2**32 - 1))
        await going.read()
        await heard.call(at.generate())
        await heard.client(generated(session, 1.0))
        going.cancel()
    async with desk(max_pending_steps=4) as at:
        await heard.call(at.generate(prompt=[floats(*range(5))]))


async def taken_over(heard: Heard) -> None:
    """A stream has taken the session over, with its secret, while a rollout that commits to it was under way or waited."""
    async with desk() as at:
        opened = await at.open("other")
        going = at.front.inference.Generate(request(model="counter", session_id="other", commit=EACH, **_ENDLESS))
        await going.read()
        await at.send_attach(1, "other", opened.secret)
        await heard.call(whole(going))


async def left_unread(heard: Heard) -> None:
    """Nothing of a rollout has been read for `engine.rollout_unread_seconds`."""
    async with desk(rollout_unread_seconds=0.01) as at, small_window(at.front.address) as channel:
        await at.open("other")
        inference = inference_pb2_grpc.InferenceServiceStub(channel)
        going = inference.Generate(request(model="counter", session_id="other", commit=EACH, **_ENDLESS))
        await going.read()
        await engine_when(at.front, lambda stats: not stats.rollouts, "counter")
        await heard.call(whole(going))


async def number_taken(heard: Heard) -> None:
    """A rollout that committed to the session has taken the input's number."""
    async with desk() as at:
        opened = await at.open("other")
        await at.generate("other", commit=EACH, max_steps=3)
        await heard.call(at.step(1, [1.0], id="other"))
        await at.send_attach(1, "other", opened.secret)
        await at.stream.receive()
        await at.stream.step([1], [1], [1.0])
        await heard.row(at.stream)


async def beyond_the_window(heard: Heard) -> None:
    """A rollout that commits is longer than what the window has left behind answers that are not acknowledged."""
    async with desk(window_steps=8) as at:
        await heard.call(at.generate(HELD, secret=at.secret, max_steps=8))


async def no_numbers(heard: Heard) -> None:
    """A prompt holds NaN or infinity."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await heard.client(generated(session, np.nan))
        await heard.call(at.generate(prompt=[floats(1, np.nan)]))


async def no_such_token_to_begin_with(heard: Heard) -> None:
    """A number of a prompt is beyond the model's `limit` or `range`."""
    async with front_door("ring", spec=ring_spec, backend=ring_backend) as front:
        for token in (-1, 8):
            await heard.call(whole(front.inference.Generate(request(prompt=[tokens(token)]))))


async def outputs_too_large(heard: Heard) -> None:
    """The outputs of one step of a rollout are more than 4 KiB, or than a message holds."""
    async with front_door("wide", spec=_wide_and_rolling, backend=lambda: WideBackend(width=_WIDTH)) as front:
        wanted = request(model="wide", prompt=[floats(1)], outputs=True)
        await heard.call(whole(front.inference.Generate(wanted)))


def _wide_and_rolling(name: str) -> ModelSpec:
    spec = wide_spec(_WIDTH)(name)
    return dataclasses.replace(spec, heads=(spec.heads[0], dataclasses.replace(spec.heads[1], predicts="x")))


async def leaving_the_numbers(heard: Heard) -> None:
    """A step of a rollout would have made the state or an output infinite or not a number."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await heard.client(generated(session, POISON))
        await heard.call(at.generate(prompt=[floats(POISON)]))
        await heard.call(at.generate(prompt=[floats(POISON)], commit=EACH))


async def failing(heard: Heard) -> None:
    """The model raised an error at a step of a rollout."""
    async with desk() as at, at.client() as client:
        session = await client.open_session("counter")
        await heard.client(generated(session, VENOM))
        await heard.call(at.generate(prompt=[floats(VENOM)]))
        await heard.call(at.generate(prompt=[floats(VENOM)], commit=EACH))


async def generated(session: Session, value: float) -> object:
    """A rollout of the Python client behind one value."""
    return await session.generate([[value]], max_steps=1, greedy=True).whole()


SCENARIOS = (
    another_beginning,
    no_room,
    taken_over,
    left_unread,
    number_taken,
    beyond_the_window,
    no_numbers,
    no_such_token_to_begin_with,
    outputs_too_large,
    leaving_the_numbers,
    failing,
)
