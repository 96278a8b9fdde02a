"""SIGHUP: nothing ends, and every process of the server takes the level of the log that its file of settings names now."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

from benchmarks.process import children
from support.process import ServerProcess, server_process


async def next_event(server: ServerProcess) -> dict[str, Any]:
    """The next line of its log."""
    assert server.process.stderr is not None
    event: dict[str, Any] = json.loads(await server.process.stderr.readline())
    return event


async def test_a_server_takes_another_level_and_keeps_it_if_the_file_is_wrong(models: Path, tmp_path: Path) -> None:
    """What is logged later shows the level; a file that cannot be read is an error that names it."""
    file = tmp_path / "settings.toml"
    file.write_text('log.level = "error"')
    async with server_process(models, "--config", str(file)) as server:
        file.write_text('log.level = "info"')
        server.process.send_signal(signal.SIGHUP)
        taken = await next_event(server)
        assert (taken["event"], taken["log_level"], taken["source"]) == ("log_level_taken", "info", f"file {file}")
        file.write_text('log.level = "loud"')
        server.process.send_signal(signal.SIGHUP)
        kept = await next_event(server)
        assert (kept["event"], kept["level"]) == ("log_level_kept", "error")
        assert kept["error"].startswith(f"file {file}: log.level: must be 'debug', 'info', 'warning' or 'error'")
        server.process.send_signal(signal.SIGTERM)
        code, log = await server.ended()
    assert code == 0
    assert [json.loads(line)["event"] for line in log.splitlines()] == ["draining", "drained"]


async def test_all_processes_take_it(models: Path, tmp_path: Path) -> None:
    """The one in front, which is told, the one that computes, and workers; these heed no hang-up of their own."""
    file = tmp_path / "settings.toml"
    file.write_text('log.level = "error"')
    flags = ["--config", str(file), "--workers", "2", "--on_failure", "restart"]
    async with server_process(models, *flags) as server:
        (computing,) = children(server.process.pid)
        workers = children(computing)
        file.write_text('log.level = "warning"')
        server.process.send_signal(signal.SIGHUP)
        taken = [await next_event(server) for _ in range(4)]
        assert {each["event"] for each in taken} == {"log_level_taken"}
        assert sorted(each["pid"] for each in taken) == sorted([server.process.pid, computing, *workers])
        assert {each["log_level"] for each in taken} == {"warning"}
        assert all(ignores_hang_ups(worker) for worker in workers)
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == (0, "")


def ignores_hang_ups(pid: int) -> bool:
    """proc(5): SigIgn is a mask whose lowest bit is signal 1, which is SIGHUP."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigIgn"], 16) & 1)
