"""The turnstile: nobody waits for a stream that sends much."""

from __future__ import annotations

import numpy as np
import pytest

from stepstream_server.engine.ports import Acknowledge, Call, CallersLeft, Command, DoorLost, Drain, Get, StreamEnded
from stepstream_server.engine.turnstile import Turnstile


def said(stream: int) -> Command:
    """Something that a stream says."""
    none = np.zeros(0, np.int64)
    return Acknowledge(stream, none, none, none.astype(np.uint32), none)


def call(rows: int) -> Command:
    """So many momentary steps."""
    none, flags = np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
    times, ids = np.zeros(rows), [str(row) for row in range(rows)]
    return Call(none, none.astype(np.uint32), ids, (), none, none + 1, (), none, times, times, flags, flags)


def test_a_stream_that_sends_much_waits_for_itself_alone() -> None:
    """Others are in the same turn, however much of it came before."""
    turnstile = Turnstile(per_stream=2, callers_rows=4)
    flood = [said(1) for _ in range(5)]
    for command in flood:
        turnstile.add(0, command)
    turnstile.add(0, ask := Get(1, "a"))
    turnstile.add(0, other := said(2))
    assert turnstile.take(100) == [(0, flood[0]), (0, flood[1]), (0, ask), (0, other)]
    assert turnstile.take(100) == [(0, flood[2]), (0, flood[3])]
    assert turnstile.take(100) == [(0, flood[4])]
    assert not turnstile


def test_streams_take_turns_where_a_turn_is_too_short_for_all() -> None:
    """Who was served goes to the end, keeping its own order."""
    turnstile = Turnstile(per_stream=2, callers_rows=4)
    commands = {stream: [said(stream) for _ in range(3)] for stream in (1, 2)}
    for stream in (1, 2):
        for command in commands[stream]:
            turnstile.add(0, command)
    assert turnstile.take(3) == [(0, each) for each in (*commands[1][:2], commands[2][0])]
    assert turnstile.take(3) == [(0, each) for each in (commands[1][2], *commands[2][1:])]


@pytest.mark.parametrize("last", [DoorLost(), Drain(1)], ids=["door lost", "drain"])
def test_what_concerns_all_streams_comes_between_before_and_after(last: Command) -> None:
    """Else what a stream said before would be heard of a stream that is gone, or what it says later as if it came in time."""
    turnstile = Turnstile(per_stream=2, callers_rows=4)
    before: list[Command] = [said(1), said(2), said(1), said(1), StreamEnded(1)]
    for command in before:
        turnstile.add(0, command)
    turnstile.add(1, other := said(1))
    turnstile.add(0, last)
    turnstile.add(0, after := said(2))
    taken = [id(command) for _, command in turnstile.take(100)]
    assert taken[-2:] == [id(last), id(after)]
    assert set(taken[:-2]) == {id(each) for each in (*before, other)}
    of_the_first = [id(before[index]) for index in (0, 2, 3, 4)]
    assert [each for each in taken if each in of_the_first] == of_the_first


def test_momentary_callers_share_the_rows_of_a_turn() -> None:
    """They stand in one line, of which a turn takes as many rows as it may, and one command at least."""
    turnstile = Turnstile(per_stream=2, callers_rows=4)
    calls = [call(1), call(2), call(1), call(2), call(9), CallersLeft([1])]
    for command in calls:
        turnstile.add(0, command)
    turnstile.add(0, other := said(1))
    assert turnstile.take(100) == [*[(0, each) for each in calls[:3]], (0, other)]
    assert turnstile.take(100) == [(0, calls[3])]
    assert turnstile.take(100) == [(0, calls[4])]
    assert turnstile.take(100) == [(0, calls[5])]
