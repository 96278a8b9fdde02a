"""The script that measures the code finds its arrows, circles, floors and largest parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.house_figures import ROOT, WINGS, Figures, Largest, Wing, measure

FILES = {
    "__init__.py": "from .first import First\n",
    "first.py": """from wing.room import Face, second


class First:
    def __init__(self, one, /, two, *, three): ...
""",
    "room/__init__.py": "from . import second\nfrom .second import Face\n",
    "room/second.py": """from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import wing.first


class Face:
    async def late(self):
        import elsewhere

        return elsewhere
""",
}


@pytest.fixture
def figures(tmp_path: Path) -> Figures:
    """Of a wing of four files, three of them in a circle."""
    for name, text in FILES.items():
        path = tmp_path / "source" / "wing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return measure(Wing("made up", "source", "wing"), tmp_path)


def test_arrows_point_at_the_file_that_defines_a_name(figures: Figures) -> None:
    """A submodule if there is one, else the package's face; once for each pair, and for types too."""
    assert (figures.files, figures.arrows, figures.room_arrows) == (4, 5, 3)


def test_a_circle_is_listed_and_counts_as_one_floor(figures: Figures) -> None:
    """Files that import one another lie on one floor; who imports them lies above."""
    assert figures.circles == [["wing.first", "wing.room", "wing.room.second"]]
    assert figures.floors == 2


def test_the_largest_are_named(figures: Figures) -> None:
    """Parameters are counted without self, those by keyword among them; lines are those of the file and of the function."""
    assert figures.lines == 19
    assert figures.module == Largest(11, "wing.room.second")
    assert figures.function == Largest(4, "wing.room.second.Face.late")
    assert figures.constructor == Largest(3, "wing.first.First.__init__")


def test_every_wing_of_this_checkout_is_there() -> None:
    """The script finds files in each, and prints all of them."""
    assert all(measure(wing, ROOT).files for wing in WINGS)
    done = subprocess.run([sys.executable, ROOT / "scripts" / "house_figures.py", ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(wing.name in done.stdout for wing in WINGS)
