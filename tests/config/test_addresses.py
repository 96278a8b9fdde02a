"""Where a server listens, as it is told on stdout and learnt by the process in front of it."""

from __future__ import annotations

import pytest

from stepstream_server.addresses import learn, tell


@pytest.mark.parametrize(("health", "flags"), [("", {}), ("127.0.0.1:40125", {"--health": "127.0.0.1:40125"})])
@pytest.mark.parametrize(("as_json", "lines"), [(True, 1), (False, 2)])
def test_what_is_told_is_learnt(as_json: bool, lines: int, health: str, flags: dict[str, str]) -> None:
    """In either form, with an address for probes or without; other lines teach nothing."""
    told = tell("127.0.0.1:40123", "[::1]:40124", health, as_json=as_json).splitlines()
    lines += bool(health) and not as_json
    assert len(told) == lines
    learnt: dict[str, str] = {}
    for line in ["", "{", "a line of somebody else", *told]:
        learnt |= learn(line)
    assert learnt == {"--listen": "127.0.0.1:40123", "--metrics": "[::1]:40124", **flags}
