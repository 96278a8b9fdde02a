"""The handle table against a dictionary, and its bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepstream_server.engine.ports import Opened
from stepstream_server.errors import CallerError, Reason
from stepstream_server.rpc.stream.members import Handles


def opened(session: int) -> Opened:
    """A session as the engine tells of it."""
    return Opened(str(session), b"", session, session + 100, 0, 0)


def column(*handles: int) -> np.ndarray:
    """A handle column."""
    return np.array(handles, np.uint32)


def bound(*handles: int) -> Handles:
    """A table in which these handles stand for sessions of the same numbers."""
    table = Handles(1000)
    for handle in handles:
        table.reserve(handle)
        table.bind(handle, 1, opened(handle))
    return table


@given(st.lists(st.integers(0, 200), unique=True, max_size=50), st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_handles_stand_for_what_they_were_bound_to(taken: list[int], asked: list[int]) -> None:
    """Any handle at all can be looked up; bound ones give their session and generation."""
    table = bound(*taken)
    owners = table.owners(column(*taken, *asked))
    assert (owners > 0).tolist() == [handle in taken for handle in [*taken, *asked]]
    sessions, generations = table.sessions(column(*taken))
    assert sessions.tolist() == taken
    assert generations.tolist() == [handle + 100 for handle in taken]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.booleans()), max_size=60), st.data())
def test_settled_steps_are_never_more_than_were_expected(moves: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    """Whatever arrives, each handle returns as much as it expected, in any grouping; a freed one returns the rest."""
    table, model = bound(0, 1, 2, 3), dict.fromkeys(range(4), 0)
    for handle, steps, arriving in moves:
        repeat = data.draw(st.integers(1, 3))
        handles, lengths = column(*[handle] * repeat), np.full(repeat, steps, np.int64)
        if arriving:
            settled = min(model[handle], steps * repeat)
            assert table.settle(handles, lengths, steps * repeat) == settled
            model[handle] -= settled
        else:
            table.expect(handles, lengths)
            model[handle] += steps * repeat
    assert [table.free(handle) for handle in range(4)] == list(model.values())


def test_several_handles_settle_together() -> None:
    """One answer that was not expected does not return what another handle is owed."""
    table = bound(0, 1)
    table.expect(column(0, 1), np.array([2, 5]))
    assert table.settle(column(0, 1, 0), np.array([2, 1, 7]), 10) == 3
    assert table.free(1) == 4


def refuses(table: Handles, handle: int) -> None:
    """The handle cannot be had now."""
    with pytest.raises(CallerError, match=f"{handle} already stands") as caught:
        table.reserve(handle)
    assert caught.value.reason is Reason.HANDLE_IN_USE


def test_a_handle_in_use_cannot_be_taken() -> None:
    """Neither while it waits for its session, nor while it stands for one, nor until its detach is confirmed."""
    table = Handles(1000)
    table.reserve(7)
    refuses(table, 7)
    table.bind(7, 1, opened(1))
    refuses(table, 7)
    table.leave(column(7))
    refuses(table, 7)
    table.free(7)
    table.reserve(7)


def test_a_leaving_handle_takes_no_steps() -> None:
    """From the request to detach on, the handle is unknown to blocks."""
    table = bound(3)
    table.leave(column(3))
    assert table.owners(column(3))[0] < 1
    assert table.stands(3)


def test_handles_are_bounded() -> None:
    """A handle beyond the stream's limit is refused, whatever is free."""
    table = Handles(10)
    table.reserve(9)
    with pytest.raises(CallerError, match="expected numbers below 10, got 10") as caught:
        table.reserve(10)
    assert caught.value.reason is Reason.INVALID_ARGUMENT


@pytest.mark.parametrize("handle", [15, 16, 17, 999])
def test_the_table_grows_to_the_largest_handle(handle: int) -> None:
    """Handles need not be dense, and those that were there stay."""
    table = bound(0, handle)
    assert (table.owners(column(0, handle, handle - 1)) > 0).tolist() == [True, True, False]
