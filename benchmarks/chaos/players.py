"""A client process: plays its share of the scripts, disturbed or not, and writes what its applications were told.

`python -m benchmarks.chaos.players PLAN` with a PlayersPlan as JSON says that it is there, reads when to begin, and writes a
PlayersResult as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.chaos.playing import Flight, Pace, Played, Player, Told, undisturbed
from benchmarks.chaos.script import script
from stepstream import Client, ClientOptions

CLIENTS = 2  # of a process: a session is taken over from one by the other
_AT_ONCE = 64  # scripts of an undisturbed run


@dataclass(frozen=True, slots=True)
class PlayersPlan:
    """Scripts to be played, and where."""

    address: str  # HOST:PORT
    seed: int
    steps: int  # of each session, about
    numbers: list[int]  # of scripts
    out: str  # path of the result
    told: str = ""  # path of the result of a disturbed run; empty: this is one
    process: int = 0
    seconds: float = 0.0  # of load
    limit: float = 0.0  # seconds, from the beginning on, until what has not ended never will


@dataclass(slots=True)
class PlayersResult:
    """Everything that happened."""

    played: list[Played] = field(default_factory=list)
    flights: list[Flight] = field(default_factory=list)
    breaks: list[tuple[int, float]] = field(default_factory=list)  # client, and the time when it lost its stream

    def write(self, path: str) -> None:
        """Writes it as JSON."""
        Path(path).write_text(json.dumps(asdict(self)))


def read(path: str) -> PlayersResult:
    """Reads a file that `PlayersResult.write` has written. Raises OSError."""
    data = json.loads(Path(path).read_text())
    played = [Played(**(each | {"told": [Told(**told) for told in each["told"]]})) for each in data["played"]]
    return PlayersResult(played, [Flight(**each) for each in data["flights"]], [(at, when) for at, when in data["breaks"]])


def _options(client: int) -> ClientOptions:
    """Clients of one process share a connection unless they differ in something."""
    return ClientOptions(
        keepalive_seconds=60.0 + client, connect_seconds=60.0, reconnect_first_seconds=0.05, reconnect_most_seconds=0.5
    )


async def disturbed(plan: PlayersPlan, began: float) -> PlayersResult:
    """Plays all scripts at the same time. began: as of time.monotonic, which processes share."""
    result = PlayersResult()
    first = CLIENTS * plan.process
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client(plan.address, _options(each))) for each in range(CLIENTS)]
        watching = [asyncio.create_task(_watch(first + each, client, result)) for each, client in enumerate(clients)]
        pace = Pace(began, plan.seconds, began + plan.limit)
        players = [
            Player(each, script(plan.seed, each, plan.steps), clients, pace, result.flights, first) for each in plan.numbers
        ]
        await asyncio.gather(*(each.play() for each in players))
        result.played = [each.played for each in players]
    await asyncio.gather(*watching)
    return result


async def _watch(number: int, client: Client, result: PlayersResult) -> None:
    async for event in client.events():
        if event.kind in ("lost", "left"):
            result.breaks.append((number, time.monotonic()))


async def plain(plan: PlayersPlan, told: Iterable[Played]) -> PlayersResult:
    """Plays the scripts of a disturbed run as if nothing had happened."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def play(theirs: Played) -> Played:
        mine = Played(theirs.number)
        async with at_once:
            try:
                await undisturbed(script(plan.seed, theirs.number, plan.steps), theirs.told, client, mine)
            except Exception as error:
                mine.fault = f"undisturbed: {type(error).__name__}: {error}"
        return mine

    async with Client(plan.address) as client:
        played: Sequence[Played] = await asyncio.gather(*map(play, told))
    return PlayersResult(list(played))


def main() -> None:
    """One plan in, one result out."""
    plan = PlayersPlan(**json.loads(sys.argv[1]))
    print("ready", flush=True)
    began = float(sys.stdin.readline())
    playing = plain(plan, read(plan.told).played) if plan.told else disturbed(plan, began)
    asyncio.run(playing).write(plan.out)


if __name__ == "__main__":
    main()
