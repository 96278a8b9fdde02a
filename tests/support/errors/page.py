"""The table of docs/errors.md, read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"


@dataclass(frozen=True)
class Row:
    """One situation. `reason` is empty where there is none; `details` are `field`, `expectedSeq` and `retry N ms`."""

    reason: str
    code: str
    situation: str
    carried_by: frozenset[str]
    details: frozenset[str]
    exception: str
    advice: str


def rows() -> list[Row]:
    """The rows of the one table, in its order."""
    cells = (re.split(r" \| ", line.strip("| ")) for line in PAGE.read_text().splitlines() if line.startswith("| "))
    return [_row(*each) for each in cells if len(each) == 7 and each[0] not in ("reason", "---")]


def codes() -> dict[str, str]:
    """The page's list of what an unknown reason becomes: exception by code."""
    return dict(re.findall(r"^\| `([A-Z_]+)` \| `([A-Za-z]+)` \|$", PAGE.read_text(), re.MULTILINE))


def _row(reason: str, code: str, situation: str, carried_by: str, details: str, exception: str, advice: str) -> Row:
    return Row(_plain(reason), _plain(code), situation, _set(carried_by), _set(details), _plain(exception), advice)


def _set(cell: str) -> frozenset[str]:
    return frozenset(_plain(each) for each in cell.split(", ")) - {""}


def _plain(cell: str) -> str:
    return cell.replace("`", "").replace("—", "").strip()
