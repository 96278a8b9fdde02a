"""A process that writes a hundred sessions to a file again and again, and says which write is done, until it is killed."""

from __future__ import annotations

import itertools
import sys

from stepstream_server.engine.ports import Written
from stepstream_server.store import open_store
from support.storing import Customer, group

KEYS = [f"s{place}" for place in range(100)]


def main() -> None:
    """Says the `next_seq` of all sessions once it is in the store."""
    customer = Customer(open_store(f"sqlite:{sys.argv[1]}"))
    for next_seq in itertools.count(1):
        if isinstance(customer.write(group(KEYS, next_seq=next_seq)), Written):
            print(next_seq, flush=True)


if __name__ == "__main__":
    main()
