"""The environment file: every package that any extra brings has exactly one version, and it is the one under test."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def pins() -> dict[str, str]:
    """Package to version, as constraints.txt says."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def wanted(requirements: list[str]) -> set[str]:
    """All packages that these requirements bring, followed through what is installed here."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or not applies(requirement, ""):
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or []:
            inner = Requirement(text)
            # torch's CUDA build names the exact version of each CUDA library itself, and its CPU build brings none.
            pinned = name == "torch" and str(inner.specifier).startswith("==")
            if not pinned and any(applies(inner, extra) for extra in {"", *requirement.extras}):
                waiting.append(inner)
    return found


def applies(requirement: Requirement, extra: str) -> bool:
    """Whether the requirement holds here, asked for with this extra ("" for none)."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def test_every_package_has_a_version() -> None:
    """What the base and all extras bring is listed with its version, and nothing else is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    assert wanted([*project["dependencies"], *extras]) == set(pins())


def test_versions_are_those_installed() -> None:
    """The tests run on the versions that the file promises (a wheel's own build handle, as in 2.13.0+cpu, aside)."""
    assert {name: re.sub(r"\+.*", "", importlib.metadata.version(name)) for name in pins()} == pins()
