"""The page on concepts names tests and reasons that exist, and its diagram shows what the engine does."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stepstream_server.errors import Reason
from support.engine import Answer, Harness, Refusal
from support.pages import ROOT

PAGE = ROOT / "docs" / "concepts.md"
DIAGRAM = ROOT / "docs" / "number-line.svg"
PROOFS: list[tuple[str, str]] = re.findall(r"\[`(test_\w+)`\]\((\S+)\)", PAGE.read_text())
IN_CAPITALS = r"[A-Z]+(?:_[A-Z]+)+"


@pytest.mark.parametrize(("name", "path"), PROOFS, ids=[name for name, _ in PROOFS])
def test_the_proof_of_a_rule_is_there(name: str, path: str) -> None:
    """Each test that a rule names is in the file that its link leads to."""
    assert f"def {name}(" in (PAGE.parent / path).read_text()


def test_every_rule_has_a_proof() -> None:
    """All seven."""
    rules = re.findall(r"^\d\. \*\*.*?(?=^\d\. |^## )", PAGE.read_text().partition("the rules\n")[2], re.MULTILINE | re.DOTALL)
    assert len(rules[:7]) == 7
    assert all("](../tests/" in rule for rule in rules[:7])


@pytest.mark.parametrize("file", [PAGE, DIAGRAM], ids=lambda file: str(file.name))
def test_reasons_are_the_contracts(file: Path) -> None:
    """No reason is named that nobody gives."""
    named = set(re.findall(IN_CAPITALS, file.read_text()))
    assert named
    assert named <= {reason.name for reason in Reason} | {"SESSION_TAKEN"}


def test_the_diagram_says_what_becomes_of_an_input() -> None:
    """The same session as in the picture: acked 4, next_seq 7, admission point 9, a window of 8 steps."""
    h = Harness(window_steps=8)
    (a,) = h.open()
    h.send([a], [0], [[1.0] * 7])
    h.settle()
    h.acknowledge(a, 4)
    h.send([a], [7], [[1.0, 1.0]])
    for first, length in ((3, 1), (6, 1), (8, 1), (10, 1), (9, 4), (9, 1)):
        h.send([a], [first], [[1.0] * length])
    assert h.settle() == [
        Answer(1, 0, 7, 2, (8.0, 9.0)),
        Refusal(1, 0, 3, 1, Reason.ANSWER_DISCARDED, 9),
        Answer(1, 0, 6, 1, (7.0,)),
        Answer(1, 0, 8, 1, (9.0,)),
        Refusal(1, 0, 10, 1, Reason.SEQUENCE_MISMATCH, 9),
        Refusal(1, 0, 9, 4, Reason.WINDOW_FULL, 9),
        Answer(1, 0, 9, 1, (10.0,)),
    ]


def test_the_diagram_is_drawn() -> None:
    """It is XML, with a title for who cannot see it, and colours for both kinds of screen."""
    root = ElementTree.parse(DIAGRAM).getroot()
    assert [child.tag.rpartition("}")[2] for child in root][:3] == ["title", "desc", "style"]
    assert "prefers-color-scheme: dark" in DIAGRAM.read_text()
