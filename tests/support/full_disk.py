"""A process whose store lies on a disk that it fills and empties again. To be run where the disk is small and its own."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from stepstream_server.engine.ports import NotDone, Written
from stepstream_server.store import open_store
from support.storing import Customer, check_same, group


def main() -> None:
    """Says what was seen, between the lines of the log."""
    folder = Path(sys.argv[1])
    store = open_store(f"sqlite:{folder / 'sessions.db'}")
    customer = Customer(store)
    told = written_until_full(customer, folder)
    print("refused")
    for key, seed in told.items():
        check_same(customer.find(key)[0], group([key], seed=seed))
    print("read")
    (folder / "filler").unlink()
    for key in ("s0", "after"):
        assert isinstance(customer.write(group([key], seed=1000)), Written)
        check_same(customer.find(key)[0], group([key], seed=1000))
    for key, seed in list(told.items())[1:]:
        check_same(customer.find(key)[0], group([key], seed=seed))
    store.close()


def written_until_full(customer: Customer, folder: Path) -> dict[str, int]:
    """Fills the disk and writes until it is refused thrice. Returns the seed of what was told as written last, by key."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(4096)) == 4096:
            pass
    told, refused, number = {}, 0, 0
    while refused < 3:
        key = f"s{number}"
        outcome = customer.write(group([key], seed=number))
        if isinstance(outcome, Written):
            told[key] = number
        else:
            assert isinstance(outcome, NotDone)
            assert "database or disk is full" in outcome.error.message, outcome.error.message
            refused += 1
        number += 1
    return told


if __name__ == "__main__":
    main()
