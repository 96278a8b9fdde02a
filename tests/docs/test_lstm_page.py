"""The page on the LSTM cell: its tables are those of the example, its sizes those of bundles, its diagram is drawn."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from stepstream_server.bundles import declare
from stepstream_server.spec import CellKind, CellModel, CellSpec
from support.pages import ROOT

PAGE = (ROOT / "docs" / "lstm.md").read_text()
EXAMPLE = (ROOT / "examples" / "memory" / "README.md").read_text()
DIAGRAM = ROOT / "docs" / "lstm-cell.svg"


def table(page: str, head: str) -> str:
    """The table of a page that begins with `head`."""
    return page[page.index(head) :].partition("\n\n")[0]


@pytest.mark.parametrize("head", ["| words between |", "| | lag 1 |"])
def test_figures_are_the_examples(head: str) -> None:
    """Measured once, told twice."""
    assert table(PAGE, head) == table(EXAMPLE, head)


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_sizes_are_those_of_bundles(kind: CellKind) -> None:
    """Parameters of a layer and numbers of its state, by the formulas of the page's last table."""
    cell = CellSpec(kind, input_size=5, hidden_size=7, layers=1)
    _, parameters, state = re.findall(rf"^\| `{kind}` \| (.*?) \| (.*?) \| .*: (.*?) \|$", PAGE, re.MULTILINE)[0]
    weights = declare.weight_shapes(CellModel(cell), [])
    states = declare.state_specs(cell, None, [])
    assert _value(parameters) == sum(math.prod(shape) for shape in weights.values())
    assert _value(state) == sum(each.elements for each in states)


def test_the_diagram_is_drawn() -> None:
    """It is XML, with a title for who cannot see it, and colours for both kinds of screen."""
    root = ElementTree.parse(DIAGRAM).getroot()
    assert [child.tag.rpartition("}")[2] for child in root][:3] == ["title", "desc", "style"]
    assert "prefers-color-scheme: dark" in DIAGRAM.read_text()


def _value(formula: str) -> int:
    """Of `4 H (I + H + 2)` and the like, with I = 5 and H = 7."""
    factor, _, rest = formula.rpartition("H (I + H + 2)" if "(" in formula else "H")
    assert not rest
    return int(factor or 1) * 7 * (5 + 7 + 2 if "(" in formula else 1)
