"""The files that the code model is trained and measured on."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import LEFT_OUT, Files, is_held_out, load, load_shipped, split


@pytest.fixture(scope="module")
def library() -> Files:
    """The standard library of this interpreter."""
    return load()


def test_whole_files_are_held_out(library: Files) -> None:
    """Each file is on one side, and enough of them are held out to measure with."""
    trained, held_out = split(library)
    assert trained.keys() | held_out.keys() == library.keys()
    assert not trained.keys() & held_out.keys()
    assert len(held_out) >= 20
    assert 0.03 < len(held_out) / len(library) < 0.08


def test_the_library_is_read_in_order_and_whole(library: Files) -> None:
    """Sorted by path, so that the same interpreter gives the same training; several megabytes of it."""
    assert list(library) == sorted(library)
    assert sum(map(len, library.values())) > 5_000_000
    assert {"argparse.py", "asyncio/events.py"} <= library.keys()


def test_what_is_no_program_is_left_out(tmp_path: Path) -> None:
    """Tests, tables, generated and installed files are not read, nor is a file that holds no second byte to predict."""
    for name in ("a.py", "b/c.py", "test/d.py", "b/tests/e.py", "site-packages/f.py", "_sysconfigdata_x.py", "config-3/g.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("pass\n")
    (tmp_path / "empty.py").touch()
    (tmp_path / "notes.txt").write_text("no source")
    assert load(tmp_path) == {"a.py": b"pass\n", "b/c.py": b"pass\n"}
    assert not any(LEFT_OUT & set(Path(name).parts) for name in load())


def test_shipped_files_are_held_out() -> None:
    """None of them was trained on, whatever interpreter runs this."""
    shipped = load_shipped()
    assert set(shipped) == {"chunk.py", "dbm/__init__.py", "signal.py", "unittest/signals.py"}
    assert all(is_held_out(name) for name in shipped)
    assert all(content.endswith(b"\n") for content in shipped.values())
