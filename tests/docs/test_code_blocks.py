"""Every Python block of README and docs is a whole program that works as it stands, against the server of `make serve`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from support.pages import ADDRESS, PAGES, ROOT, blocks, name, output_of
from support.server import serving

PROGRAMS = [
    pytest.param(block, id=f"{name(page)}-{number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "python"), 1)
    # An application is run by a web server: test_web_page.py. Models are served: test_models_page.py.
    if "\napp = " not in block and page.name != "models.md"
]


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_python_block_runs(program: str, tmp_path: Path) -> None:
    """It ends without an error, and without a warning if it is a client's; a client shows something."""
    if ADDRESS not in program:
        await output_of(sys.executable, "-c", program, folder=tmp_path)
        return
    async with serving(ROOT / "models") as bound:
        assert await output_of(sys.executable, "-W", "error", "-c", program.replace(ADDRESS, bound.listen), folder=tmp_path)


def test_there_are_programs_to_run() -> None:
    """The test above does not pass for want of blocks."""
    assert sum(ADDRESS in str(program.values[0]) for program in PROGRAMS) >= 2
