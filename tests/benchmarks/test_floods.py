"""Floods are sent, borne and measured."""

from __future__ import annotations

import socket
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import flooding
from benchmarks.drive import SMALL, make_model
from benchmarks.flooding import KINDS, stay_silent
from benchmarks.floods import Outcome, endure, tell
from benchmarks.process import HERE
from benchmarks.timing import SMOKE

FIN_WAIT2 = 5  # tcp(7): the peer has heard that nothing more comes


@pytest.mark.parametrize("kind", ["resets", "halves"])
def test_a_flood_is_sent_and_borne(tmp_path: Path, kind: str) -> None:
    """Honest clients hear the right answers beside it, or `endure` raises."""
    outcome = endure(HERE, kind, make_model(tmp_path, SMALL), SMOKE, rest_seconds=0.0, connections=2)
    assert outcome.sent > 0
    assert outcome.peak >= outcome.before > 0
    assert outcome.p99 >= outcome.p50 > 0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_flood_is_made_of_whole_frames(kind: str) -> None:
    """Each is as long as it says."""
    data = b"".join(islice(KINDS[kind](), 10))
    frames = 0
    while data:
        data, frames = data[9 + int.from_bytes(data[:3]) :], frames + 1
    assert frames >= 10


def test_resets_are_of_many_methods() -> None:
    """None of them comes twice before each has come once."""
    heads = list(islice(KINDS["resets"](), 12))
    paths = [next(path for path in flooding.PATHS if path.encode() in head) for head in heads]
    assert len(set(flooding.PATHS)) == len(flooding.PATHS)
    assert paths == [*flooding.PATHS] * (12 // len(flooding.PATHS))


def test_silent_connections_that_were_let_go_of_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five that say nothing two are closed while they wait, one of them after a word to it."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0), backlog=5) as listener:

        def let_go_of_two(seconds: float) -> None:
            held.extend(listener.accept()[0] for _ in range(5))
            held[1].sendall(b"goodbye")
            held[2].sendall(b"hello")
            for each in held[1], held[3]:
                each.shutdown(socket.SHUT_WR)
                while each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != FIN_WAIT2:
                    pass

        monkeypatch.setattr(flooding, "wait", let_go_of_two)
        assert stay_silent(listener.getsockname(), 0.0, connections=5) == 2
    for each in held:
        each.close()


def test_a_row_tells_medians() -> None:
    """Memory is told as growth."""
    outcomes = [Outcome(sent, 100.0, 150.0 + sent, 101.0, 0.001, 0.01) for sent in (1000, 3000, 2000)]
    assert tell("resets", "this", outcomes) == "| resets | this | 2,000 | 100 | +2050 | +1 | 1.0 | 10.0 |"
