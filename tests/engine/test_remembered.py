"""Memory of what is over: for how long it lasts, how much there is of it, and whose goes first."""

from __future__ import annotations

from stepstream_server.engine.books.remembered import Remembered


def remembered(most: int = 10) -> Remembered[int]:
    """Numbers, each of its own size, for five seconds."""
    return Remembered[int](5.0, most, lambda number: number)


def test_entries_are_found_for_a_while() -> None:
    """One that is remembered again is found for as long again."""
    entries = remembered()
    entries.remember("a", 1, 0.0)
    entries.remember("b", 2, 1.0)
    entries.remember("a", 3, 4.0)
    assert [entries.find(key, 5.9) for key in ("a", "b", "c")] == [3, 2, None]
    assert [entries.find(key, 6.1) for key in ("a", "b")] == [3, None]
    entries.forget_overdue(6.1)
    assert len(entries) == 1


def test_an_entry_that_is_forgotten_makes_room() -> None:
    """Its size counts no more."""
    entries = remembered()
    entries.remember("a", 6, 0.0)
    entries.forget(["a", "never there"])
    entries.remember("b", 4, 0.0)
    entries.remember("c", 6, 0.0)
    assert [entries.find(key, 1.0) for key in ("a", "b", "c")] == [None, 4, 6]


def test_the_oldest_goes_first() -> None:
    """So many of them go as it takes."""
    entries = remembered()
    for number, key in enumerate(("a", "b", "c"), 2):
        entries.remember(key, number, 0.0)
    entries.remember("d", 5, 0.0)
    assert [entries.find(key, 1.0) for key in "abcd"] == [None, None, 4, 5]


def test_a_tenant_drives_nothing_of_others_out() -> None:
    """However much of it there is; beyond the bound, its own oldest goes."""
    entries = remembered()
    entries.remember("honest/a", 3, 0.0)
    for number in range(100):
        entries.remember(f"flood/{number}", 1, 1.0)
    assert entries.find("honest/a", 2.0) == 3
    assert [entries.find(f"flood/{number}", 2.0) for number in (0, 92, 93, 99)] == [None, None, 1, 1]
    entries.remember("honest/b", 2, 2.0)
    assert [entries.find(key, 2.0) for key in ("honest/a", "honest/b", "flood/94", "flood/95")] == [3, 2, None, 1]
