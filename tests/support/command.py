"""The command `stepstream` as its users run it: the installed script, in a process of its own, on pipes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(sys.executable).with_name("stepstream")


@dataclass(frozen=True)
class Done:
    """How it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """What it printed as JSON."""
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        """What it told on stderr as JSON."""
        error: dict[str, Any] = json.loads(self.stderr)["error"]
        return error


def environment(server: str, **more: str) -> dict[str, str]:
    """This process's with the script on the path, warnings as errors, and no variables of ours but where the server is."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("STEPSTREAM_")}
    path = f"{SCRIPT.parent}{os.pathsep}{inherited.get('PATH', '')}"
    return {**inherited, "PATH": path, "PYTHONWARNINGS": "error", "STEPSTREAM_SERVER": server, **more}


async def start(server: str, *arguments: str, **more: str) -> asyncio.subprocess.Process:
    """Starts it on three pipes. more: environment variables."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        str(SCRIPT), *arguments, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(server, **more)
    )


async def stepstream(server: str, *arguments: str, stdin: str = "", env: Mapping[str, str] | None = None) -> Done:
    """Runs it to its end."""
    return await ended(await start(server, *arguments, **(env or {})), stdin)


async def shell(server: str, text: str, folder: Path, **more: str) -> Done:
    """Runs lines of bash that may call it; one that fails ends them."""
    pipe = asyncio.subprocess.PIPE
    bash = await asyncio.create_subprocess_exec(
        "bash", "-e", "-c", text, cwd=folder, env=environment(server, **more), stdin=pipe, stdout=pipe, stderr=pipe
    )
    return await ended(bash)


async def ended(process: asyncio.subprocess.Process, stdin: str = "") -> Done:
    """Waits for its end."""
    stdout, stderr = await process.communicate(stdin.encode())
    return Done(process.returncode or 0, stdout.decode(), stderr.decode())
