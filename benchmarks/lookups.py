"""Measures whether time tells a session of another tenant from one that nobody has: pairs of lookups of both, in random order.

`python -m benchmarks.lookups` prints, for each lookup, the median of both and the AUC: how often one that finds another tenant's
session takes longer than one that finds nothing. At 0.5 time tells nothing. Lookups are timed in an engine turned by hand, in
the services as they call it, and over gRPC, where all that comes between is in it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import queue
import random
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np

from benchmarks.neighbours import predicting
from benchmarks.process import HERE
from stepstream_proto.v1 import inference_pb2, inference_pb2_grpc, session_pb2, session_pb2_grpc
from stepstream_server import backends
from stepstream_server.access import Principal, Role, hash_token, make_token
from stepstream_server.bundles import Bundle
from stepstream_server.config import BackendSettings, DoorSettings, EngineSettings
from stepstream_server.engine.engine import Engine
from stepstream_server.engine.ports import (
    NO_SEQ,
    NO_STREAM,
    ROW,
    Attach,
    Call,
    Close,
    Command,
    Commit,
    Door,
    Export,
    Fork,
    Generate,
    Get,
    InferenceTotals,
    Open,
    TurnReport,
)
from stepstream_server.errors import StepStreamError
from stepstream_server.rpc import EngineClient, Models
from stepstream_server.rpc.callers import principal
from stepstream_server.rpc.inference import InferenceService
from stepstream_server.rpc.openings import Openings
from stepstream_server.rpc.quotas import Quotas
from stepstream_server.rpc.sessions import SessionService
from stepstream_server.rpc.stream.registry import Streams
from stepstream_server.tenancy import scoped

OWNER, OTHER = "owner", "other"  # tenants: whose sessions there are, and who looks for them
LOOKUPS = ("get", "close", "attach", "fork", "export", "generate", "call")
_STREAM = 7  # that holds some of the sessions
_ID_BYTES, _SECRET_BYTES = 16, 16
_WARM_UP_PAIRS = 100
_FEWER = 5  # pairs over gRPC, where each takes 15 times as long, and the network's noise hides what little there might be


@dataclass(frozen=True, slots=True)
class Wanted:
    """A session that is looked for: one of the owner's, or one of nobody's that looks like it."""

    id: str
    secret: bytes


def auc(these: Sequence[float], others: Sequence[float]) -> float:
    """How often one of these is more than one of the others; what is alike counts half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, these, "left") + np.searchsorted(ordered, these, "right")
    return float(below.mean()) / 2 / len(ordered)


@dataclass(frozen=True, slots=True)
class Seen:
    """Seconds of lookups of the owner's sessions and of nobody's."""

    foreign: list[float]
    unknown: list[float]

    def line(self) -> str:
        """A row of the table."""
        medians = [statistics.median(each) * 1e6 for each in (self.foreign, self.unknown)]
        return f"{auc(self.foreign, self.unknown):.3f}   {medians[0]:9.2f} {medians[1]:9.2f}"


def pairs(known: Sequence[Wanted], rng: random.Random) -> Iterator[tuple[tuple[bool, Wanted], ...]]:
    """Pairs without end, in random order: whether it is the owner's, and what is wanted. All strings are made just before."""
    while True:
        mine = rng.choice(known)
        both = [
            (True, mine.id.encode(), mine.secret),
            (False, secrets.token_hex(_ID_BYTES).encode(), secrets.token_bytes(_SECRET_BYTES)),
        ]
        rng.shuffle(both)
        yield tuple((foreign, Wanted(id.decode(), bytes(bytearray(secret)))) for foreign, id, secret in both)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing is collected meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed(known: Sequence[Wanted], look: Callable[[Wanted], object], count: int) -> Seen:
    """So many pairs."""
    seen, endless, before = Seen([], []), pairs(known, random.Random(0)), min(_WARM_UP_PAIRS, count)
    with _quiet():
        for turn, pair in enumerate(itertools.islice(endless, count + before)):
            for foreign, wanted in pair:
                begun = time.perf_counter_ns()
                look(wanted)
                taken = (time.perf_counter_ns() - begun) / 1e9
                if turn >= before:
                    (seen.foreign if foreign else seen.unknown).append(taken)
    return seen


async def timed_calls(known: Sequence[Wanted], look: Callable[[Wanted], Awaitable[object]], count: int) -> Seen:
    """Times what is awaited in pairs."""
    seen, endless, before = Seen([], []), pairs(known, random.Random(0)), min(_WARM_UP_PAIRS, count)
    with _quiet():
        for turn, pair in enumerate(itertools.islice(endless, count + before)):
            for foreign, wanted in pair:
                begun = time.perf_counter_ns()
                await look(wanted)
                taken = (time.perf_counter_ns() - begun) / 1e9
                if turn >= before:
                    (seen.foreign if foreign else seen.unknown).append(taken)
    return seen


class _Silent:
    """An observer that hears nothing."""

    def turn(self, report: TurnReport) -> None:
        """Nothing."""

    def totals(self) -> InferenceTotals:
        """Never asked for."""
        raise NotImplementedError


class Crank:
    """An engine that turns as soon as something is said to it, on the thread that says it."""

    def __init__(self, bundle: Bundle, sessions: int) -> None:
        settings = EngineSettings(capacity=2 * sessions)
        slots = settings.capacity + settings.max_rollout_paths
        backend = backends.build(bundle.spec, bundle.weights, BackendSettings(), slots=slots, max_batch=settings.max_batch)
        self.engine = Engine(bundle.spec, backend, settings, _Silent())
        self._doors: list[Door] = []

    def connect(self, sink: Any) -> Door:
        """A mouth of the engine that turns it."""
        return _Turning(self.engine.connect(sink), self.turn)

    def turn(self) -> None:
        """Takes in what was said."""
        envelopes = []
        with suppress(queue.Empty):
            while True:
                envelopes.append(self.engine.inbox.get_nowait())
        self.engine.turn([each for each in envelopes if each is not None], self.engine.clock() + self.engine.turn_budget)
        self.engine.land()


class _Turning:
    def __init__(self, door: Door, turn: Callable[[], None]) -> None:
        self._door = door
        self._turn = turn

    def submit(self, *commands: Command) -> None:
        self._door.submit(*commands)
        self._turn()


class _Ear:
    """Hears what the engine tells."""

    def __init__(self) -> None:
        self.replies: dict[int, Any] = {}

    def deliver(self, delivery: Any) -> None:
        self.replies = {reply.request: reply.value for reply in delivery.replies}

    def fail(self, error: StepStreamError) -> None:
        raise error


def settle(crank: Crank, count: int) -> list[Wanted]:
    """Opens the owner's sessions: of four one is held by a stream, and one has been closed."""
    ear = _Ear()
    door = crank.connect(ear)
    keys = [scoped(OWNER, "")] * count
    door.submit(Open(NO_STREAM, 1, keys))
    opened = ear.replies[1]
    held = opened[::4]
    handles = np.arange(len(held), dtype=np.uint32)
    ids, proofs, none = [each.id for each in held], [each.secret for each in held], np.zeros(len(held), np.int64)
    door.submit(Attach(_STREAM, 2, handles, ids, proofs, none))
    for each in opened[1::4]:
        door.submit(Close(3, each.id, each.secret))
    return [Wanted(each.id.partition("/")[2], each.secret) for each in opened]


def by_hand(crank: Crank) -> dict[str, Callable[[Wanted], object]]:
    """Each lookup as a command of the other tenant's, carried out by a turn of the engine."""
    door, spec = crank.connect(_Ear()), crank.engine.spec
    handle, none, row = np.zeros(1, np.uint32), np.zeros(1, np.int64), np.zeros(1, ROW)
    row["stream"], row["length"], row["unkept"], row["deadline"] = 8, 1, True, float("inf")
    inputs = tuple(np.zeros((1, *each.shape), each.dtype) for each in spec.inputs)
    starts = np.zeros(1, np.bool_)

    def said(make: Callable[[str, bytes], Command]) -> Callable[[Wanted], object]:
        return lambda wanted: door.submit(make(scoped(OTHER, wanted.id), wanted.secret))

    return {
        "get": said(lambda key, secret: Get(1, key)),
        "close": said(lambda key, secret: Close(1, key, secret)),
        "attach": said(lambda key, secret: Attach(9, 1, handle, [key], [secret], none)),
        "fork": said(lambda key, secret: Fork(1, key, secret, NO_SEQ, [scoped(OTHER, "")], "", True)),
        "export": said(lambda key, secret: Export(1, key, secret, NO_SEQ, False, 1 << 20, "", True)),
        "generate": said(lambda key, secret: Generate(10, 1, key, secret, NO_SEQ, Commit.END, inputs, 1, 0.0)),
        "call": said(lambda key, secret: Call(row.copy(), [key], [secret], starts, inputs)),
    }


class _Nobody:
    """A call's context without a connection."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def peer(self) -> str:
        return "nobody"

    def time_remaining(self) -> None:
        return None

    def add_done_callback(self, callback: object) -> None:
        """It is never done."""


def requests(model: str) -> dict[str, Callable[[Wanted], Any]]:
    """Each lookup as a message, but for the one that is said on a stream."""
    step = inference_pb2.StepRequest(model=model)
    step.inputs["input"].numbers.append(0.0)

    def stepped(wanted: Wanted) -> inference_pb2.StepRequest:
        request = inference_pb2.StepRequest(session_id=wanted.id, secret=wanted.secret)
        request.MergeFrom(step)
        return request

    return {
        "get": lambda wanted: session_pb2.GetSessionRequest(model=model, id=wanted.id),
        "close": lambda wanted: session_pb2.CloseSessionRequest(model=model, id=wanted.id, secret=wanted.secret),
        "fork": lambda wanted: session_pb2.ForkSessionRequest(model=model, id=wanted.id, secret=wanted.secret),
        "export": lambda wanted: session_pb2.ExportSessionRequest(model=model, id=wanted.id, secret=wanted.secret),
        "generate": lambda wanted: inference_pb2.GenerateRequest(
            model=model, session_id=wanted.id, secret=wanted.secret, prompt=[bytes(4)], max_steps=1
        ),
        "call": stepped,
    }


def by_services(crank: Crank) -> dict[str, Callable[[Wanted], Awaitable[object]]]:
    """Each lookup as a service carries it out, from a message that was parsed to the refusal. On an event loop."""
    settings, quotas, models = DoorSettings(), Quotas(None), Models()
    door = EngineClient(crank.engine.spec, crank.engine.limits, asyncio.get_running_loop())
    door.open(crank.connect(door))
    models.publish([door])
    openings = Openings()
    sessions = SessionService(models, openings, settings)
    inference = InferenceService(models, Streams(models, settings, openings, quotas), quotas, settings)
    principal.set(Principal(OTHER, Role.CALLER, shared=False))
    context = cast("Any", _Nobody())
    methods: dict[str, Callable[[Any, Any], Awaitable[object]]] = {
        "get": sessions.GetSession,
        "close": sessions.CloseSession,
        "fork": sessions.ForkSession,
        "export": sessions.ExportSession,
        "call": inference.Step,
        "generate": lambda request, context: anext(aiter(inference.Generate(request, context))),
    }

    async def refused(method: Callable[[Any, Any], Awaitable[object]], make: Callable[[Wanted], Any], wanted: Wanted) -> None:
        with suppress(StepStreamError):
            await method(make(wanted), context)
            raise RuntimeError("a session of another tenant was found")

    made = requests(crank.engine.spec.name)
    return {name: partial(refused, method, made[name]) for name, method in methods.items()}


def over_grpc(channel: grpc.aio.Channel, model: str, token: str) -> dict[str, Callable[[Wanted], Awaitable[object]]]:
    """Each lookup as a call, and one on a stream."""
    sessions, inference = session_pb2_grpc.SessionServiceStub(channel), inference_pb2_grpc.InferenceServiceStub(channel)
    metadata = (("authorization", f"Bearer {token}"),)
    stream = inference.Stream(metadata=metadata)
    methods: dict[str, Any] = {
        "get": sessions.GetSession,
        "close": sessions.CloseSession,
        "fork": sessions.ForkSession,
        "export": sessions.ExportSession,
        "call": inference.Step,
    }

    async def refused(method: Any, make: Callable[[Wanted], Any], wanted: Wanted) -> None:
        with suppress(grpc.aio.AioRpcError):
            await method(make(wanted), metadata=metadata)
            raise RuntimeError("a session of another tenant was found")

    async def rolled(wanted: Wanted) -> None:
        with suppress(grpc.aio.AioRpcError):
            await inference.Generate(made["generate"](wanted), metadata=metadata).read()
            raise RuntimeError("a session of another tenant was found")

    async def attached(wanted: Wanted) -> None:
        one = inference_pb2.AttachSession(handle=0, id=wanted.id, secret=wanted.secret)
        await stream.write(inference_pb2.StreamRequest(attach=inference_pb2.Attach(model=model, sessions=[one])))
        answer: Any = await stream.read()
        if not answer.attached.sessions[0].HasField("error"):
            raise RuntimeError("a session of another tenant was found")

    made = requests(model)
    calls = {name: partial(refused, method, made[name]) for name, method in methods.items()}
    return {**calls, "generate": rolled, "attach": attached}


async def _settle_over_grpc(channel: grpc.aio.Channel, model: str, token: str, count: int) -> list[Wanted]:
    request = session_pb2.OpenSessionsRequest(model=model, count=count)
    metadata = (("authorization", f"Bearer {token}"),)
    opened = await session_pb2_grpc.SessionServiceStub(channel).OpenSessions(request, metadata=metadata)
    return [Wanted(each.id, each.secret) for each in opened.sessions]


async def _all(known: Sequence[Wanted], looks: dict[str, Callable[[Wanted], Awaitable[object]]], count: int) -> dict[str, Seen]:
    return {name: await timed_calls(known, looks[name], count) for name in LOOKUPS if name in looks}


async def measure_here(bundle: Bundle, count: int, sessions: int) -> dict[str, dict[str, Seen]]:
    """In this process, by where it is timed, then by lookup: so many pairs, among so many sessions of the owner."""
    crank = Crank(bundle, sessions)
    known = settle(crank, sessions)
    return {
        "engine": {name: timed(known, look, count) for name, look in by_hand(crank).items()},
        "services": await _all(known, by_services(crank), count),
    }


def make_tenants(file: Path) -> dict[str, str]:
    """Writes the file of both tenants; returns the token of each."""
    tokens = {tenant: make_token() for tenant in (OWNER, OTHER)}
    file.write_text("".join(f"[[tenants.{name}.tokens]]\nsha256 = '{hash_token(each)}'\n" for name, each in tokens.items()))
    return tokens


async def measure_over_grpc(address: str, model: str, tokens: dict[str, str], count: int, sessions: int) -> dict[str, Seen]:
    """Of a server that knows both tenants, by lookup."""
    async with grpc.aio.insecure_channel(address) as channel:
        known = await _settle_over_grpc(channel, model, tokens[OWNER], sessions)
        return await _all(known, over_grpc(channel, model, tokens[OTHER]), count)


def main() -> None:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lookups", description=__doc__)
    parser.add_argument("--pairs", type=int, default=10_000, help="of each lookup")
    parser.add_argument("--sessions", type=int, default=1000, help="that the owner has had")
    options = parser.parse_args()
    count, sessions = options.pairs, options.sessions
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, tokens = predicting(folder / "served"), make_tenants(folder / "tenants.toml")
        seen = asyncio.run(measure_here(bundle, count, sessions))
        with HERE.serving(bundle.path.parent, "--door.tokens", str(folder / "tenants.toml")) as server:
            fewer = max(1, count // _FEWER)
            seen["gRPC"] = asyncio.run(measure_over_grpc(server.address, bundle.spec.name, tokens, fewer, sessions))
    for where, lookups in seen.items():
        print(f"{where:<10} AUC      another's  nobody's, µs (medians)")
        print(*(f"  {name:<8} {each.line()}" for name, each in lookups.items()), sep="\n")


if __name__ == "__main__":
    main()
