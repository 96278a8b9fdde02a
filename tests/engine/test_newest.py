"""Streams of one client over several front doors: late words of an older one take nothing from the newer."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepstream_server.engine.ports import Attach, Door, DoorLost, Ending, Open, Opened, StreamEnded
from stepstream_server.errors import CallerError, Reason
from support.engine import Ear, Harness

NOBODY, ONE = Ear(), 1


class Doors:
    """Two front doors of one engine, each with one stream of the same client: the second door's is the newer."""

    def __init__(self) -> None:
        self.h = Harness()
        self.ears = [self.h.ear, Ear()]
        self.doors: list[Door] = [self.h.door, self.h.engine.connect(self.ears[1])]
        self._requests = 0

    def open(self, door: int, client: str = "c") -> Any:
        """A session for the door's stream, or why there is none."""
        self._requests += 1
        self.doors[door].submit(
            Open(ONE, self._requests, [""], np.zeros(1, np.uint32), None, "", client=client, number=10 + door)
        )
        self.h.turn()
        reply = self.ears[door].replies[self._requests]
        return reply[0] if isinstance(reply, list) else reply

    def attach(self, door: int, session: Opened, client: str = "c") -> Any:
        """The same for a session that there is."""
        self._requests += 1
        columns = np.zeros(1, np.uint32), [session.id], [session.secret], np.zeros(1, np.int64)
        self.doors[door].submit(Attach(ONE, self._requests, *columns, client=client, number=10 + door))
        self.h.turn()
        reply = self.ears[door].replies[self._requests]
        return reply[0] if isinstance(reply, list) else reply


def test_an_older_stream_takes_nothing_from_a_newer_one() -> None:
    """However late its words are read, and whichever door reads them."""
    d = Doors()
    session = d.open(0)
    assert isinstance(d.attach(1, session), Opened)
    assert d.ears[0].detached == [(ONE, 0, Ending.TAKEN)]
    for late in (d.attach(0, session), d.open(0)):
        assert isinstance(late, CallerError)
        assert late.reason is Reason.STREAM_REPLACED
        assert "stream 11" in late.message
    assert d.ears[1].detached == []


def test_another_clients_streams_and_those_without_a_name_are_their_own() -> None:
    """Their numbers mean nothing to each other."""
    d = Doors()
    session = d.open(1)
    assert isinstance(d.attach(0, session, client="another"), Opened)
    assert isinstance(d.attach(1, session, client=""), Opened)
    assert isinstance(d.attach(0, session, client=""), Opened)


def test_the_newest_is_known_for_as_long_as_it_is_open() -> None:
    """Then an older one may go on: there is nobody to take anything from."""
    for end in (StreamEnded(ONE), DoorLost()):
        d = Doors()
        session = d.open(1)
        d.doors[1].submit(end)
        d.h.turn()
        assert isinstance(d.attach(0, session), Opened)
