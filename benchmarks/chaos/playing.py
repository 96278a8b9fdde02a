"""Plays a script by the client library, and notes what its application was told: no more than any application could.

Disturbed, in good time and with everything in flight that the script wants. Undisturbed, as plainly as it can be said: what was
in flight one by one is a chunk, nothing has a timeout, and nobody takes anything over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.chaos.script import Act, Burst, Chunk, Reset, Roll, Script, TakeOver, Timed, inputs
from stepstream import (
    AnswerDiscarded,
    AnswerNotKept,
    Client,
    DeadlineExceeded,
    Outputs,
    Session,
    SessionEnded,
    SessionGroup,
    SessionLost,
    SessionTaken,
)

BEAT_SECONDS = 1.0  # acts begin at beats, as sensors of one clock do: so it is known when there is something in flight
_LOOK_SECONDS = 0.02  # between looks at how much is durable
_MOST_TRIES = 50  # to take a session over


@dataclass(slots=True)
class Told:
    """Everything that an application was told of one act."""

    at: int  # steps that were applied before
    applied: int = 0
    outputs: list[str] = field(default_factory=list)  # digests or text; "" for what was asked for and not told


@dataclass(slots=True)
class Played:
    """Everything that an application was told of one script."""

    number: int
    told: list[Told] = field(default_factory=list)
    fault: str = ""  # an error that no application should see
    takeovers: int = 0
    repeated: int = 0  # takeovers of sessions that had to be told again what they had answered
    overdue: int = 0  # timeouts that fired


@dataclass(frozen=True, slots=True)
class Flight:
    """Steps that were in flight: the time from the first call of an act to its last answer."""

    client: int
    begun: float  # as of time.monotonic, which processes share
    ended: float
    steps: int
    rolls: bool  # whether it is a rollout


@dataclass(frozen=True, slots=True)
class Pace:
    """When acts are due."""

    began: float  # as of time.monotonic
    seconds: float
    limit: float  # as of time.monotonic: what has not ended by then never will

    def due(self, script: Script, act: int) -> float:
        """When an act is to begin: at a beat, from a script's start to the end of the time."""
        share = script.start + (1 - script.start) * act / len(script.acts)
        return self.began + round(share * self.seconds / BEAT_SECONDS) * BEAT_SECONDS


class Player:
    """One script, disturbed. Clients: the one that opens its sessions, and the one that takes over from it, and so on."""

    def __init__(
        self, number: int, script: Script, clients: Sequence[Client], pace: Pace, flights: list[Flight], first: int
    ) -> None:
        """first: the number of the first of the clients, in flights."""
        self.played = Played(number)
        self._script = script
        self._clients = clients
        self._at = number % len(clients)  # client
        self._pace = pace
        self._flights = flights
        self._first = first

    async def play(self) -> None:
        """The whole script. What goes wrong is in `played`, and ends it."""
        act: object = "open"
        try:
            async with asyncio.timeout_at(self._pace.limit):
                await self._until(self._pace.due(self._script, 0))
                held = await self._open()
                for index, act in enumerate(self._script.acts):
                    await self._until(self._pace.due(self._script, index))
                    held = await self._act(held, index, act)
                act = "close"
                await self._close(held)
        except Exception as error:
            self.played.fault = f"act {len(self.played.told)}, {act}: {type(error).__name__}: {error}"[:500]

    async def _until(self, due: float) -> None:
        await asyncio.sleep(due - time.monotonic())

    async def _open(self) -> Session | SessionGroup:
        client, script = self._clients[self._at], self._script
        if script.sessions == 1:
            return await client.open_session(script.model, durable=True)
        return await client.open_sessions(script.model, script.sessions, durable=True)

    async def _close(self, held: Session | SessionGroup) -> None:
        """Looks at the server's count, which may be behind until the client has replayed; closes, and looks again."""
        applied = applied_by(held)
        for session in sessions_of(held):
            if (count := await self._count(session, applied)) != applied:
                raise ValueError(f"expected {applied} steps applied in the end, got {count}")
        await held.close()
        for session in sessions_of(held):
            try:
                await self._clients[0].get_session(session.model.name, session.id)
            except SessionEnded:
                continue
            raise ValueError(f"{session.id} is there though it was closed")

    async def _count(self, session: Session, least: int) -> int:
        """Steps that the server has applied, once they are so many."""
        while True:
            count = (await self._clients[0].get_session(session.model.name, session.id)).next_seq
            if count >= least:
                return count
            await asyncio.sleep(_LOOK_SECONDS)

    async def _act(self, held: Session | SessionGroup, index: int, act: Act) -> Session | SessionGroup:
        """One act, noted. Returns who holds the session from then on."""
        told = Told(applied_by(held))
        self.played.told.append(told)
        if isinstance(act, TakeOver) and isinstance(held, Session):
            held = await self._take_over(held, act, inputs(self._script, index, act.steps), told)
        else:
            with self._flight(act):
                told.outputs = await self._outputs(held, index, act)
        told.applied = applied_by(held) - told.at
        return held

    async def _outputs(self, held: Session | SessionGroup, index: int, act: Act) -> list[str]:
        """Gives what an act brings whoever holds the session."""
        match held, act:
            case Session(), Timed():
                return await self._timed(held, act, inputs(self._script, index, act.before + act.steps + 1))
            case Session(), Roll():
                return await _rolled(held, act)
            case _:
                axis = int(isinstance(held, SessionGroup))
                return await _plainly(held, act, inputs(self._script, index, act.steps), axis)

    async def _timed(self, session: Session, act: Timed, values: NDArray[Any]) -> list[str]:
        """The last step, which waits until it is known what became of the others, tells by its number."""

        async def hurried() -> list[str]:
            try:
                several = await session.chunk(values[act.before : -1], timeout=act.timeout)
            except DeadlineExceeded:
                self.played.overdue += 1
                return [""] * act.steps
            return digests(several, 0)

        before = [asyncio.create_task(session.step(each)) for each in values[: act.before]]
        await asyncio.sleep(0)  # they are on their way
        several = await hurried()
        first, last = await asyncio.gather(*before), await session.step(values[-1])
        return [*map(digest, first), *several, digest(last)]

    async def _take_over(self, old: Session, act: TakeOver, values: NDArray[Any], told: Told) -> Session:
        """Another client attaches the session while its steps are in flight, and repeats what was not heard.

        An application that does so keeps its inputs itself as far as they are not durable, since the client that has them is
        gone. Where the server had to begin anew from before what was heard, it repeats that too, and must be told the same.
        """
        await self._written(old)
        told.outputs = [""] * len(values)
        heard = _Heard(told)
        first = [asyncio.create_task(heard.step(old, index, value)) for index, value in enumerate(values)]
        await asyncio.sleep(0)  # they are on their way
        self._at = (self._at + 1) % len(self._clients)
        self.played.takeovers += 1
        try:
            with self._flight(act):
                new = await self._repeat(old, first, values, heard, told.at)
        finally:
            await asyncio.gather(*first, return_exceptions=True)
        return new

    async def _repeat(
        self, old: Session, first: Sequence[asyncio.Task[None]], values: NDArray[Any], heard: _Heard, at: int
    ) -> Session:
        """Attaches until the session stays with the client, and all its steps are heard and durable. at: number of the first."""
        acked = old.acked
        for _ in range(_MOST_TRIES):
            try:
                new = await self._clients[self._at].attach_session(old.model.name, old.id, old.secret, acked=acked)
                await old.detach()
                await asyncio.gather(*first, return_exceptions=True)
                rest = range(acked - at, len(values))
                outcomes = await asyncio.gather(*(heard.step(new, each, values[each]) for each in rest), return_exceptions=True)
                acked = new.acked
                if failed := [each for each in outcomes if isinstance(each, BaseException)]:
                    raise failed[0]
                await self._written(new)
                return new
            except SessionLost as lost:
                self.played.repeated += 1
                acked = _since(lost, at)
            except (AnswerDiscarded, AnswerNotKept, SessionTaken):  # the first has heard more, or took it back, ignorant of it
                acked = max(acked, old.acked)
        raise TimeoutError(f"the session was not taken over in {_MOST_TRIES} tries")

    async def _written(self, session: Session) -> None:
        """Waits until all that was applied is durable."""
        while session.durable_seq < session.acked:
            await asyncio.sleep(_LOOK_SECONDS)
            if (ended := session._ledger.ended) is not None:  # it has no other way to say so than to fail a step
                raise ended

    @contextmanager
    def _flight(self, act: Act) -> Iterator[None]:
        client, begun = self._first + self._at, time.monotonic()
        yield
        self._flights.append(Flight(client, begun, time.monotonic(), act.steps, isinstance(act, Roll)))


class _Heard:
    """Answers that several clients have heard of the same steps."""

    def __init__(self, told: Told) -> None:
        self._told = told

    async def step(self, session: Session, index: int, value: NDArray[Any]) -> None:
        """One step. Who has the session taken away while it is in flight hears nothing of it, or an error of the session."""
        heard, before = digest(await session.step(value)), self._told.outputs[index]
        self._told.outputs[index] = heard if before in ("", heard) else f"{before}, then {heard}"


async def undisturbed(script: Script, told: Sequence[Told], client: Client, played: Played) -> None:
    """Plays a script of which others were told this. What was applied of an act with a timeout decides what is applied here."""
    held: Session | SessionGroup
    if script.sessions == 1:
        held = await client.open_session(script.model)
    else:
        held = await client.open_sessions(script.model, script.sessions)
    for index, (act, theirs) in enumerate(zip(script.acts, told, strict=False)):
        mine = Told(applied_by(held))
        played.told.append(mine)
        if isinstance(held, Session):
            mine.outputs = await _alone(held, script, index, act, theirs)
        else:
            mine.outputs = await _at_once(held, act, inputs(script, index, act.steps), 1)
        mine.applied = applied_by(held) - mine.at
    await held.close()


async def _alone(session: Session, script: Script, index: int, act: Act, theirs: Told) -> list[str]:
    match act:
        case Timed(before=before, steps=steps):
            values = inputs(script, index, before + steps + 1)
            applied = min(max(theirs.applied - before - 1, 0), steps)  # of those with a timeout
            outputs = digests(await session.chunk(np.concatenate([values[: before + applied], values[-1:]])), 0)
            return [*outputs[:-1], *[""] * (steps - applied), outputs[-1]]
        case Roll():
            return await _rolled(session, act)
        case _:
            return await _at_once(session, act, inputs(script, index, act.steps), 0)


async def _plainly(held: Session | SessionGroup, act: Act, values: NDArray[Any], axis: int) -> list[str]:
    """Just as an act says. axis: of the steps."""
    match act:
        case Burst():
            steps: list[Awaitable[Outputs]] = [held.step(values.take(each, axis)) for each in range(act.steps)]
            return [digest(each) for each in await asyncio.gather(*steps)]
        case _:
            return await _at_once(held, act, values, axis)


async def _at_once(held: Session | SessionGroup, act: Act, values: NDArray[Any], axis: int) -> list[str]:
    """In one call."""
    match act:
        case Reset():
            await held.reset()
            return []
        case Chunk(outputs=outputs):
            return digests(await held.chunk(values, outputs), axis)
        case _:
            return digests(await held.chunk(values), axis)


async def _rolled(session: Session, act: Roll) -> list[str]:
    rollout = session.generate(
        act.prompt, max_steps=act.steps, temperature=1.0, seed=act.seed, stop=act.stop or (), commit="each"
    )
    text = await rollout.whole()
    return [f"{text} ({rollout.ending})"]


def digest(outputs: Outputs) -> str:
    """Says in short all bits of some outputs."""
    whole = blake2b(digest_size=8)
    for name in sorted(outputs):
        whole.update(outputs[name].tobytes())
    return whole.hexdigest()


def digests(outputs: Outputs, axis: int) -> list[str]:
    """Digests of each step along an axis."""
    (steps,) = {each.shape[axis] for each in outputs.values()}
    return [digest({name: each.take(step, axis) for name, each in outputs.items()}) for step in range(steps)]


def sessions_of(held: Session | SessionGroup) -> Sequence[Session]:
    """All of them."""
    return [held] if isinstance(held, Session) else held


def applied_by(held: Session | SessionGroup) -> int:
    """Steps that were applied, as far as the client has heard. Raises ValueError if the sessions of a group differ."""
    (applied,) = {each.acked for each in sessions_of(held)}
    return applied


def _since(lost: SessionLost, least: int) -> int:
    """Says where a session that was lost goes on. Raises SessionLost if that is before what was told as durable."""
    if lost.since < least:
        raise lost
    return lost.since
