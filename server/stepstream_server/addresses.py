"""What the server prints on stdout once it serves: where it listens, for scripts to learn where port 0 led.

The process in front that starts a failed server again learns it too, to have the next one listen at the same addresses.
"""

from __future__ import annotations

import contextlib
import json


def tell(listen: str, metrics: str, health: str, *, as_json: bool) -> str:
    """`listening HOST:PORT`, `metrics URL` and, unless it is empty, `health HOST:PORT`, a line each; as JSON they are one object
    on one line."""
    told = {"listening": listen, "metrics": f"http://{metrics}/metrics"} | ({"health": health} if health else {})
    return json.dumps(told) if as_json else "\n".join(f"{what} {where}" for what, where in told.items())


def learn(line: str) -> dict[str, str]:
    """The flags that have another server listen where this line says, with their values; none for a line that says nothing."""
    told: dict[str, str] = {}
    with contextlib.suppress(ValueError):
        told = json.loads(line) if line.startswith("{") else dict([line.split()])
    named = {"--listen": "listening", "--metrics": "metrics", "--health": "health"}
    flags = {flag: told.get(name, "") for flag, name in named.items()}
    return {flag: where.removeprefix("http://").removesuffix("/metrics") for flag, where in flags.items() if where}
