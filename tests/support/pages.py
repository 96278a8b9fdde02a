"""The pages that people read, and the code in them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "deploy" / "README.md", ROOT / "CONTRIBUTING.md"]
ADDRESS = "127.0.0.1:8101"  # where the server of all pages listens, as `make serve` starts it


def name(page: Path) -> str:
    """As a reader of the project would say it."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """A page's code blocks in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


async def output_of(*command: str, folder: Path) -> str:
    """What a command prints, on either stream; fails if the command does."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    if process.returncode:
        raise AssertionError(f"{' '.join(command)[:80]} ... ended with {process.returncode}:\n{printed.decode()}")
    return printed.decode()
