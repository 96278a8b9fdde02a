"""One-shot callers at a model's door: one that goes, or whose other model fails, costs nobody else an answer."""

from __future__ import annotations

import asyncio

import numpy as np

from stepstream_server.engine.ports import Answers, Call, CallersLeft, Delivery, Detached, Limits, RowErrors
from stepstream_server.errors import Reason, ServerFault
from stepstream_server.rpc import EngineClient
from stepstream_server.rpc.coalescing import Steps
from stepstream_server.rpc.one_shot import Asked, Caller
from support.backend import counter_spec
from support.front_door import CollectingDoor


class Heard(Asked):
    """A request that leaves when it hears, if it has somebody to leave as."""

    def __init__(self, caller: Caller | None = None) -> None:
        super().__init__(1, 1)
        self.heard = asyncio.Event()
        self._caller = caller

    def done(self) -> None:
        self.heard.set()
        if self._caller is not None:
            self._caller.leave()


def open_door(name: str) -> tuple[EngineClient, CollectingDoor]:
    """A model's door, and what it tells its engine."""
    door, engine = EngineClient(counter_spec(name), Limits(8, 64, 8, 8, 60.0, 1), asyncio.get_running_loop()), CollectingDoor()
    door.open(engine)
    return door, engine


def one_step(name: str) -> Steps:
    """Of one session."""
    return Steps([name], 1, (np.zeros(1, "<f4").tobytes(),), 0.0, float("inf"))


def answers(*rows: tuple[int, int]) -> Delivery:
    """A turn that answers rows of (stream, handle)."""
    ones, outputs = np.ones(len(rows), np.int64), (np.zeros((len(rows), 1), np.float32),) * 2
    streams, handles = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    return Delivery([], Answers(streams, handles, np.zeros(len(rows), np.int64), ones, ones, outputs), RowErrors(), Detached())


async def test_a_caller_that_leaves_when_it_hears_costs_others_no_answer() -> None:
    """Somebody whose stream is ended for what it leaves unread goes in the middle of a delivery."""
    door, _ = open_door("a")
    first, second = Caller(1), Caller(2)
    other = Heard()
    first.ask(door, one_step("x"), Heard(first))
    first.ask(door, one_step("w"), Heard(first))
    second.ask(door, one_step("y"), other)
    door.deliver(answers((1, 0), (1, 1), (2, 0)))
    await asyncio.wait_for(other.heard.wait(), 60)


async def test_a_model_that_fails_takes_no_other_models_rows_along() -> None:
    """A stream may ask several models; the one that is well goes on answering it and everybody else."""
    ill, _ = open_door("ill")
    well, _ = open_door("well")
    both, other = Caller(1), Caller(2)
    of_ill, of_well, of_other = Heard(), Heard(), Heard()
    both.ask(ill, one_step("x"), of_ill)
    both.ask(well, one_step("y"), of_well)
    other.ask(well, one_step("z"), of_other)
    ill.fail(ServerFault(Reason.ENGINE_FAILED, "failed"))
    await asyncio.wait_for(of_ill.heard.wait(), 60)
    assert not of_well.heard.is_set()
    well.deliver(answers((1, 1), (2, 0)))  # handles count over models
    await asyncio.wait_for(asyncio.gather(of_well.heard.wait(), of_other.heard.wait()), 60)
    assert (of_ill.outcomes[0].error is None, of_well.outcomes[0].error) == (False, None)


async def test_a_round_of_the_loop_is_one_command() -> None:
    """Whoever asks in it; and those who have left in it are told together, behind what they asked."""
    door, engine = open_door("a")
    callers = [Caller(number) for number in range(5)]
    for caller in callers:
        caller.ask(door, one_step(f"session-{caller.number}"), Heard())
    for caller in callers[:2]:
        caller.leave()
    passed = asyncio.Event()
    asyncio.get_running_loop().call_soon(passed.set)
    await passed.wait()
    call, left = engine.commands
    assert isinstance(call, Call)
    assert call.rows["stream"].tolist() == [0, 1, 2, 3, 4]
    assert left == CallersLeft([0, 1])
