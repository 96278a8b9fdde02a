"""The map of `tests/support` for those who write tests."""

from __future__ import annotations

import re
from pathlib import Path

SUPPORT = Path(__file__).parents[1] / "support"


def test_the_map_has_every_file_and_no_other() -> None:
    """Files by name, folders with their files in the same row."""
    rows = re.findall(r"^\| (`.*?`) \|(.*)$", (SUPPORT / "README.md").read_text(), re.MULTILINE)
    told = set()
    for names, rest in rows:
        for name in re.findall(r"`(.*?)`", names):
            told.add(name)
            if name.endswith("/"):
                told |= {f"{name}{inner}" for inner in re.findall(r"`(\w+\.py)`", rest)}
    files = {path.relative_to(SUPPORT).as_posix() for path in SUPPORT.rglob("*.py") if path.name != "__init__.py"}
    folders = {f"{Path(name).parent.name}/" for name in files if "/" in name}
    assert told == files | folders
