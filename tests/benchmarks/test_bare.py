"""Bare servers in several processes: one port, one address, one life."""

from __future__ import annotations

from pathlib import Path

from benchmarks.load import Plan, measure
from benchmarks.process import module_command, running
from stepstream_server.bundles import Bundle

ECHO = ["--input-bytes", "8", "--output-bytes", "4"]
_LISTEN = "0A"  # proc(5), net/tcp


def _listeners(address: str) -> int:
    """Sockets that listen on a port."""
    port = int(address.rpartition(":")[2])
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return sum(fields[1].endswith(f":{port:04X}") and fields[3] == _LISTEN for fields in lines)


def test_processes_share_a_port_and_end_together() -> None:
    """All listen by the time that the first says so, every stream is answered whoever has it, and none outlives the first."""
    with running(module_command("echo", *ECHO, "--processes", "2")) as server:
        assert _listeners(server.address) == 2
        plan = Plan(
            server.address, server.pid, "model", 2, 1, streams=8, connections=8, warm_up_seconds=0.0, seconds=60.0, max_blocks=5
        )
        assert measure(plan).blocks == 8 * 5
    assert _listeners(server.address) == 0


def test_one_process_has_its_port_to_itself() -> None:
    """Without being told otherwise an echo is one process."""
    with running(module_command("echo", *ECHO)) as server:
        assert _listeners(server.address) == 1


def test_echo_of_the_other_protocol_shares_too(bundle: Bundle) -> None:
    """Both echoes know the same flags."""
    with running(module_command("oip_echo", str(bundle.path), "--processes", "2")) as server:
        assert _listeners(server.address) == 2
