"""Shares: what a caller may have of what there is, and whose turn it is."""

from __future__ import annotations

import numpy as np
import pytest

from stepstream_server.engine.ports import Commit, RolloutEnding
from stepstream_server.engine.rollouts.shares import Shares, first_in_turn
from support.rollouts import Rolling


def taken(shares: Shares, *clients: str) -> list[int]:
    """The part that each gets, one after the other, where each takes all that it may have."""
    found = []
    for client in clients:
        found.append(shares.room(client))
        shares.take(client, found[-1])
    return found


def test_a_lone_client_has_half() -> None:
    """The next ones of its tenant an eighth, a thirty-second, and so on; none has more by asking again."""
    assert taken(Shares(4096), "/a", "/b", "/c", "/a", "/d") == [2048, 512, 128, 0, 32]


def test_another_tenant_has_a_quarter() -> None:
    """The rest is another one's."""
    assert taken(Shares(4096), "a/x", "b/x", "c/x", "d/x", "e/x") == [2048, 1024, 512, 256, 128]


def test_a_tenant_with_many_clients_has_two_thirds() -> None:
    """However many clients it says that it has."""
    shares = Shares(3000)
    assert sum(taken(shares, *(f"a/{number}" for number in range(100)))) == 1999
    assert shares.room("b/0") == 500


def test_one_is_given_to_a_tenant_that_has_none() -> None:
    """Else a server with room for one rollout would have none."""
    assert taken(Shares(1), "/a", "/a", "b/a") == [1, 0, 0]
    assert taken(Shares(2), "a/a", "b/a", "c/a") == [1, 1, 0]


def test_what_is_given_back_can_be_had_again() -> None:
    """Nothing is kept of who holds nothing."""
    shares = Shares(64)
    for client in ("/a", "b/a", "b/b"):
        shares.take(client, 8)
    for client in ("/a", "b/a", "b/b"):
        shares.give_back(client, 8)
    assert (shares.free, shares.room("/a"), len(shares._held), len(shares._held_by_tenant)) == (64, 32, 0, 0)


def in_turn(rows: list[tuple[int, int, int]], most: int) -> list[int]:
    """Places of the rows whose turn it is, each of a tenant, a client, and served in a launch."""
    tenants, clients, served = np.array(rows, np.int64).T
    return [int(place) for place in first_in_turn(tenants, clients, served, most)]


def test_of_one_client_whoever_was_served_least_recently() -> None:
    """In order of their places."""
    assert in_turn([(0, 1, 5), (0, 1, 3), (0, 1, 4), (0, 1, 3)], 2) == [1, 3]


def test_a_client_with_one_row_beside_one_with_many() -> None:
    """It is always among them."""
    assert in_turn([(0, 1, 0)] * 10 + [(0, 2, 99)], 2) == [0, 10]


def test_clients_of_one_tenant_do_not_take_another_tenants_part() -> None:
    """Tenants have as much each, as far as they want it; so have clients of one tenant."""
    rows = [(1, client, 0) for client in range(10, 16)] + [(2, 20, 9)] * 4
    assert in_turn(rows, 6) == [0, 1, 2, 6, 7, 8]
    assert in_turn([*rows, (3, 30, 9)], 6) == [0, 1, 2, 6, 7, 10]


def test_equals_take_turns() -> None:
    """There are more clients than places, those that were served longest ago come first."""
    served = np.zeros(5, np.int64)
    for launch in range(1, 20):
        served[first_in_turn(np.zeros(5, np.int64), np.arange(5), served, 2)] = launch
        assert served.min() >= launch - 2


@pytest.mark.parametrize("chunk", [False, True])
def test_a_launch_has_time_for_some_rows_of_rollouts(chunk: bool) -> None:
    """A lone text draws in every launch beside a client with a hundred, whose rows take turns; a prompt, a session's chunk and
    its single steps go on meanwhile."""
    h = Rolling(paths=128, sessions=2)
    h.speaking.before_collect = lambda: h.clock.advance(0.0001 * h.backend.launches[-1][0] * h.backend.launches[-1][1])
    h.engine.warm_up()
    a, b = h.open(2)
    for number in range(100):
        h.generate(None, 10_000, [1], stream=1000 + number, client="/many", commit=Commit.NONE)
    h.turn(30)
    h.generate(None, 10_000, [1], stream=501, client="/one", commit=Commit.NONE)
    h.turn(3)
    h.speaking.launches.clear()
    before, others = len(h.drawn(501)), [len(h.drawn(1000 + number)) for number in range(100)]
    if chunk:
        h.send([a], [0], [[1] * 60])
    for step in range(100):
        h.send([b], [step], [[1]], handles=[1])
        assert len([each for each in h.turn() if each.handle == 1]) == 1
    assert max(batch for batch, _ in h.speaking.launches) <= 16  # of about 0.1 ms each, beside which others may take 1 ms
    assert len(h.drawn(501)) - before >= 95
    gained = [len(h.drawn(1000 + number)) - was for number, was in enumerate(others)]
    assert max(gained) - min(gained) <= 2
    assert min(gained) >= 5
    assert h.engine.books.table.next_seq[a.session] == (60 if chunk else 0)


def test_a_prompt_is_not_held_up_by_rollouts_that_wait_for_their_turn() -> None:
    """It has its chunks in each turn, as beside single steps."""
    h = Rolling(paths=128)
    h.speaking.before_collect = lambda: h.clock.advance(0.0001 * h.backend.launches[-1][0] * h.backend.launches[-1][1])
    h.engine.warm_up()
    for number in range(100):
        h.generate(None, 10_000, [1], stream=1000 + number, client="/many")
    h.turn(30)
    h.generate(None, 1, [1] * 400, stream=501, client="/one")
    h.turn(60, seconds=0.002)
    assert h.ending(501) is RolloutEnding.LENGTH
