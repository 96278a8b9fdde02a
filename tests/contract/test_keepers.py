"""The books have one keeper each: nobody but the ledger writes the counts, nobody but `status` writes the status."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepstream_server import engine

ENGINE = Path(engine.__file__).parent
KEEPERS = {
    "books/ledger.py": {"next_seq", "admitted", "acked", "released", "kept"},
    "books/status.py": {"status"},
}
FILES = sorted(str(path.relative_to(ENGINE)) for path in ENGINE.rglob("*.py"))


def written(source: str) -> Iterator[str]:
    """Fields of records that a module assigns to, as in `session["acked"] += 1`, and columns, as in `table.acked[session] =
    1`."""
    for node in ast.walk(ast.parse(source)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        for target in targets:
            for each in ast.walk(target):
                if isinstance(each, ast.Subscript) and isinstance(each.ctx, ast.Store):
                    yield from _names(each)


def _names(place: ast.expr) -> Iterator[str]:
    """All fields and columns on the way to a place in an array."""
    while isinstance(place, ast.Subscript | ast.Attribute):
        if isinstance(place, ast.Attribute):
            yield place.attr
        elif isinstance(place.slice, ast.Constant):
            yield str(place.slice.value)
        place = place.value


@pytest.mark.parametrize("file", FILES)
def test_only_their_keepers_write_counts_and_status(file: str) -> None:
    """In any module of the engine, however it names the record."""
    others = {name for keeper, names in KEEPERS.items() if keeper != file for name in names}
    assert not others & set(written((ENGINE / file).read_text()))


def test_keepers_are_seen_to_write() -> None:
    """Otherwise the test above could not fail."""
    for keeper, names in KEEPERS.items():
        assert names <= set(written((ENGINE / keeper).read_text()))
    assert set(written("a['acked'], b = 1, 2; table.status[3] = 4; c['kept'][5] += 1")) >= {"acked", "status", "kept"}


@pytest.mark.parametrize("column", ["next_seq", "admitted", "acked", "released", "kept", "status"])
def test_columns_of_the_table_cannot_be_written_to(column: str) -> None:
    """They are views to read."""
    from stepstream_server.engine.books.session_table import SessionTable

    with pytest.raises(ValueError, match="read-only"):
        getattr(SessionTable(2, 1.0), column)[0] = 1
