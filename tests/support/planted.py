"""Secrets and tokens that tests plant, and where they must not turn up: what servers log, count and print.

Each is known here from the moment in which a test has it. `conftest.py` looks through what this process has printed in a test,
`process.py` through all that a server process has written, `workers.py` through each page of metrics, `generating.py` and
`errors/heard.py` through how calls are refused.
"""

from __future__ import annotations

import base64

_planted: dict[bytes, None] = {}  # in the forms in which somebody might write them


def plant(secret: bytes) -> bytes:
    """From now on the secret must not turn up: as it is, in hexadecimal, in base64, or as Python shows it. Gives it back."""
    if len(secret) >= 8:  # what is shorter turns up by chance
        shown = repr(secret)[2:-1].encode()
        for form in (secret, secret.hex().encode(), base64.b64encode(secret), base64.urlsafe_b64encode(secret), shown):
            _planted[form.rstrip(b"=")] = None
    return secret


def plant_text(secret: str) -> str:
    """Plants a text."""
    return plant(secret.encode()).decode()


def check(written: bytes | str) -> None:
    """Raises AssertionError if a planted secret turns up in what was written."""
    if turned_up := found(written.encode("utf-8", "surrogateescape") if isinstance(written, str) else written):
        raise AssertionError(f"secrets turned up in what was written: {turned_up}")


def found(written: bytes) -> list[bytes]:
    """Looks for planted secrets: those that turn up."""
    return [form for form in list(_planted) if form in written]
