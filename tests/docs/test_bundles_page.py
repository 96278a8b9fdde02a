"""The page about bundles names what may be imported and every argument of `save`."""

from __future__ import annotations

import inspect
import re

from stepstream_server import bundles
from stepstream_server.bundles.declare import Told
from support.pages import ROOT

PAGE = (ROOT / "docs" / "bundles.md").read_text()


def named(heading: str) -> list[str]:
    """The names in the first column of the table under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [name for cell in re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE) for name in re.findall(r"`([^`]*)`", cell)]


def test_every_public_name_is_told() -> None:
    """Those of `__all__`, and no others."""
    assert sorted(named("Names")) == sorted(bundles.__all__)
    assert all(hasattr(bundles, name) for name in bundles.__all__)


def test_every_argument_of_save_is_told() -> None:
    """Its own, and what a manifest tells people."""
    arguments = inspect.signature(bundles.save).parameters.keys() - {"told"} | Told.__annotations__.keys()
    assert sorted(named("What `save` takes")) == sorted(arguments)
