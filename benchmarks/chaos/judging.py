"""The verdict on a run: whether all outputs are those of an undisturbed one, what was in flight at a kill, and how long it
paused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.chaos.players import PlayersResult
from benchmarks.chaos.playing import Flight, Played, Told
from benchmarks.chaos.script import Act, Timed, script

_HEARD_SECONDS = 3.0  # after a kill, until its clients have lost their streams


@dataclass(frozen=True, slots=True)
class Outage:
    """A process was told to end, and another one took its place. Times are as of time.monotonic."""

    began: float
    ended: float  # when its successor listened


def differences(seed: int, steps: int, disturbed: Iterable[Played], plain: Iterable[Played]) -> Iterator[str]:
    """Gives what makes a disturbed run another than an undisturbed one: of each script the first difference, since all that
    follows is different then."""
    others = {each.number: each for each in plain}
    for mine in disturbed:
        theirs = others.get(mine.number, Played(mine.number, fault="not played undisturbed"))
        for difference in _of_script(script(seed, mine.number, steps).acts, mine, theirs):
            yield f"script {mine.number}: {difference}"
            break


def _of_script(acts: Sequence[Act], mine: Played, theirs: Played) -> Iterator[str]:
    complete = len(mine.told) - bool(mine.fault)  # of the last act what was told before it broke off says nothing
    for act, told, expected in zip(acts, mine.told[:complete], theirs.told, strict=False):
        yield from (f"{act}: {difference}" for difference in _of_act(act, told, expected))
    for fault in (mine.fault, theirs.fault):
        if fault:
            yield fault
    for who in (mine, theirs):
        if len(who.told) != len(acts):
            yield f"expected {len(acts)} acts, got {len(who.told)}"


def _of_act(act: Act, told: Told, expected: Told) -> Iterator[str]:
    if (told.at, told.applied) != (expected.at, expected.applied):
        yield f"expected steps {expected.at} + {expected.applied}, got {told.at} + {told.applied}"
    if len(told.outputs) != len(expected.outputs):
        yield f"expected {len(expected.outputs)} outputs, got {len(told.outputs)}"
    for place, (got, wanted) in enumerate(zip(told.outputs, expected.outputs, strict=False)):
        if got != wanted and not (got == "" and isinstance(act, Timed)):  # out of time, though it was applied
            yield f"output {place} of those from step {told.at} on: expected {wanted!r}, got {got!r}"


class Runs:
    """The sight that all client processes had of the same outages."""

    def __init__(self, results: Sequence[PlayersResult]) -> None:
        self._flights = [each for result in results for each in result.flights]
        self._breaks = [each for result in results for each in result.breaks]

    def hit(self, outage: Outage) -> list[Flight]:
        """Gives what was in flight when it began: begun before it, not over by then, and of a client that lost its stream by
        it."""
        return [each for each in self._met(outage) if each.begun < outage.began]

    def pauses(self, outages: Sequence[Outage]) -> list[float]:
        """Seconds that applications waited for what was in flight at any time of an outage, from its beginning on."""
        return [each.ended - max(outage.began, each.begun) for outage in outages for each in self._met(outage)]

    def _met(self, outage: Outage) -> list[Flight]:
        heard = max(outage.ended, outage.began + _HEARD_SECONDS)
        lost = {client for client, when in self._breaks if outage.began <= when <= heard}
        return [
            each for each in self._flights if each.client in lost and each.begun <= outage.ended and each.ended > outage.began
        ]


def quantile(values: Sequence[float], level: float) -> float:
    """0 of none."""
    return float(np.quantile(values, level)) if values else 0.0
