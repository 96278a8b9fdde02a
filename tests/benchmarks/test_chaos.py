"""The decisions of the chaos run: scripts by a seed, what counts as a difference, and what a kill has hit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.chaos.judging import Outage, Runs, differences
from benchmarks.chaos.players import PlayersResult
from benchmarks.chaos.playing import Flight, Played, Told
from benchmarks.chaos.script import Act, Burst, Chunk, Reset, Roll, TakeOver, Timed, inputs, script

SEED, NUMBER, STEPS = 7, 0, 300


def played() -> Played:
    """Gives what an application is told of the script if all goes well: outputs are made up, but for those of timeouts."""
    told, at = [], 0
    for place, act in enumerate(script(SEED, NUMBER, STEPS).acts):
        steps = act.before + act.steps + 1 if isinstance(act, Timed) else act.steps
        told.append(Told(at, steps, [f"{place}.{step}" for step in range(steps)]))
        at += steps
    return Played(NUMBER, told)


def place_of(kind: type[Act]) -> int:
    """The first act of a kind."""
    return next(place for place, act in enumerate(script(SEED, NUMBER, STEPS).acts) if isinstance(act, kind))


def found(mine: Played) -> list[str]:
    """Gives what makes it another than `played`."""
    return list(differences(SEED, STEPS, [mine], [played()]))


def test_a_seed_decides_scripts() -> None:
    """It decides what is done and with which inputs; another seed does something else."""
    assert script(SEED, 5, STEPS) == script(SEED, 5, STEPS) != script(SEED + 1, 5, STEPS)
    once, again = (inputs(script(SEED, 9, STEPS), 3, 4) for _ in range(2))
    assert once.shape == (8, 4, 1)
    np.testing.assert_array_equal(once, again)


def test_scripts_have_acts_of_every_kind() -> None:
    """Of a hundred, there are some of each."""
    acts = [act for number in range(100) for act in script(SEED, number, STEPS).acts]
    assert {type(act) for act in acts} == {Burst, Chunk, Reset, Timed, TakeOver, Roll}
    assert {act.outputs for act in acts if isinstance(act, Chunk)} == {"all", "last", "none"}
    assert all(script(SEED, number, STEPS).steps >= STEPS for number in range(100))


def test_equal_runs_do_not_differ() -> None:
    """Those do not either in which a timeout has fired, whatever was applied."""
    mine = played()
    mine.told[place_of(Timed)].outputs[8] = ""
    assert found(mine) == []


def _missing(mine: Played) -> None:
    mine.told[place_of(Burst)].outputs.pop()


def _other(mine: Played) -> None:
    mine.told[place_of(Burst)].outputs[0] = "other"


def _unheard(mine: Played) -> None:
    mine.told[place_of(Burst)].outputs[0] = ""


def _twice(mine: Played) -> None:
    mine.told[0].applied += 1


def _early(mine: Played) -> None:
    mine.told.pop()


def _failed(mine: Played) -> None:
    mine.fault = "SessionLost"


@pytest.mark.parametrize("spoil", [_missing, _other, _unheard, _twice, _early, _failed])
def test_each_kind_of_difference_is_found(spoil: Callable[[Played], None]) -> None:
    """One of each script, since what follows differs as well."""
    mine = played()
    spoil(mine)
    (difference,) = found(mine)
    assert difference.startswith(f"script {NUMBER}: ")


def test_what_was_not_played_undisturbed_is_no_proof() -> None:
    """Nothing to compare with is a difference."""
    assert list(differences(SEED, STEPS, [played()], [])) == [f"script {NUMBER}: not played undisturbed"]


def test_hits_are_steps_in_flight_of_clients_that_lost_their_stream() -> None:
    """Not those of other workers' clients, nor what had been answered or not begun."""
    flights = [
        Flight(0, 1.0, 3.0, 8, False),
        Flight(0, 1.0, 1.9, 8, False),
        Flight(0, 2.5, 4.0, 8, True),
        Flight(1, 1.0, 3.0, 8, False),
    ]
    runs = Runs([PlayersResult([], flights, [(0, 2.1)])])
    outage = Outage(2.0, 2.8)
    assert runs.hit(outage) == flights[:1]
    assert runs.pauses([outage]) == [pytest.approx(1.0), pytest.approx(1.5)]
