#!/usr/bin/env python3
"""Prints how the house is built, wing by wing: files and lines, who imports whom, floors, circles, and the largest of each kind.

`scripts/house_figures.py [DIR]` measures this checkout or another. It reads the source and imports nothing of it.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FACE = "__init__"

Arrows = Mapping[str, frozenset[str]]  # who imports whom, by module


@dataclass(frozen=True, slots=True)
class Wing:
    """Files that belong together."""

    name: str
    source: str  # folder that imports start from, in the checkout
    package: str  # folder in it
    deep: bool = True  # with what lies in its folders
    without: str = ""  # a folder of its that is a wing of its own


WINGS = (
    *(
        Wing(f"server {room}", "server", f"stepstream_server/{room}")
        for room in ("engine", "rpc", "ipc", "backends", "bundles", "telemetry")
    ),
    Wing("rest of the server", "server", "stepstream_server", deep=False),
    Wing("client library", "client", "stepstream", without="cli"),
    Wing("client cli", "client", "stepstream/cli"),
)


@dataclass(frozen=True, slots=True)
class Module:
    """A file: by its dotted name, a package's face by that of the package."""

    name: str
    package: str  # that relative imports start from
    room: str  # direct sub-package of the wing, or a lone module in it
    lines: int
    tree: ast.Module


@dataclass(frozen=True, slots=True, order=True)
class Largest:
    """Size, and whose it is."""

    size: int = 0
    name: str = "none"

    def __str__(self) -> str:
        return f"{self.size} {self.name}"


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is said of a wing."""

    files: int
    lines: int
    arrows: int  # file to file
    room_arrows: int  # room to room
    floors: int  # files on the longest chain of imports, where a circle counts as one
    circles: list[list[str]]
    module: Largest  # lines
    function: Largest  # lines, docstring included
    constructor: Largest  # parameters of an `__init__` that is written out, without self


def modules_of(wing: Wing, checkout: Path) -> dict[str, Module]:
    """Every file of it, by name."""
    source = checkout / wing.source
    folder = source / wing.package
    paths = folder.rglob("*.py") if wing.deep else folder.glob("*.py")
    left_out = folder / wing.without if wing.without else None
    kept = [path for path in sorted(paths) if left_out is None or left_out not in path.parents]
    found = (_read(path, source, folder) for path in kept)
    return {module.name: module for module in found}


def _read(path: Path, source: Path, folder: Path) -> Module:
    text = path.read_text()
    package = ".".join(path.parent.relative_to(source).parts)
    name = package if path.stem == _FACE else f"{package}.{path.stem}"
    room = path.relative_to(folder).parts[0].removesuffix(".py")
    return Module(name, package, room, len(text.splitlines()), ast.parse(text))


def arrows_of(modules: Mapping[str, Module]) -> dict[str, frozenset[str]]:
    """Imports among these files, wherever they stand: in a function and under TYPE_CHECKING too."""
    return {name: frozenset(_imports(module, modules)) - {name} for name, module in modules.items()}


def _imports(module: Module, known: Iterable[str]) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, node)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if (found := _module(name, known)) is not None:
                yield found


def _base(module: Module, node: ast.ImportFrom) -> str:
    """Absolute name of what is imported from."""
    if not node.level:
        return node.module or ""
    parts = module.package.split(".")
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, node.module] if node.module else kept)


def _module(name: str, known: Iterable[str]) -> str | None:
    """The file that defines what is imported: that module if there is one, or else the one that has the name in it."""
    return next((each for each in (name, name.rpartition(".")[0]) if each in known), None)


def between_rooms(modules: Mapping[str, Module], arrows: Arrows) -> set[tuple[str, str]]:
    """Which room imports from which other."""
    pairs = ((modules[name].room, modules[target].room) for name, targets in arrows.items() for target in targets)
    return {(room, other) for room, other in pairs if room != other}


def circles_of(arrows: Arrows) -> dict[str, frozenset[str]]:
    """Of each file those that import one another with it, itself among them."""
    reach = {name: _reach(name, arrows) for name in arrows}
    return {name: frozenset({name, *(other for other in reach[name] if name in reach[other])}) for name in arrows}


def _reach(name: str, arrows: Arrows) -> set[str]:
    """All that a file imports, directly or not."""
    found: set[str] = set()
    ahead = [name]
    while ahead:
        new = arrows[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def floors_of(arrows: Arrows, circles: Mapping[str, frozenset[str]]) -> int:
    """Length of the longest chain of imports; a circle counts as one file."""

    @cache
    def height(circle: frozenset[str]) -> int:
        below = {circles[target] for name in circle for target in arrows[name]} - {circle}
        return 1 + max((height(each) for each in below), default=0)

    return max((height(each) for each in circles.values()), default=0)


def measure(wing: Wing, checkout: Path) -> Figures:
    """Figures of one wing; of one that is not there they are 0."""
    modules = modules_of(wing, checkout)
    arrows = arrows_of(modules)
    circles = circles_of(arrows)
    return Figures(
        files=len(modules),
        lines=sum(module.lines for module in modules.values()),
        arrows=sum(map(len, arrows.values())),
        room_arrows=len(between_rooms(modules, arrows)),
        floors=floors_of(arrows, circles),
        circles=sorted(sorted(each) for each in set(circles.values()) if len(each) > 1),
        module=_largest(Largest(module.lines, module.name) for module in modules.values()),
        function=_largest(Largest(_length(node), name) for name, node in _functions(modules)),
        constructor=_largest(Largest(_parameters(node), name) for name, node in _functions(modules) if node.name == "__init__"),
    )


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _functions(modules: Mapping[str, Module]) -> Iterator[tuple[str, Function]]:
    """Every function with its dotted name, those in classes and functions too."""
    for module in modules.values():
        yield from _functions_in(module.tree, module.name)


def _functions_in(node: ast.AST, name: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            inner = f"{name}.{child.name}"
            if isinstance(child, Function):
                yield inner, child
            yield from _functions_in(child, inner)
        else:
            yield from _functions_in(child, name)


def _length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _parameters(node: Function) -> int:
    arguments = node.args
    return len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]) - 1


def _largest(several: Iterable[Largest]) -> Largest:
    return max(several, default=Largest())


def show(wing: Wing, figures: Figures) -> None:
    """A line of numbers, and what they do not say."""
    counts = (figures.files, figures.lines, figures.arrows, figures.room_arrows, figures.floors, len(figures.circles))
    print(f"{wing.name:<20}", *(f"{count:>8,}" for count in counts))
    print(f"    longest module {figures.module}, function {figures.function}; most parameters {figures.constructor}")
    for circle in figures.circles:
        print(f"    circle: {', '.join(circle)}")


def main() -> None:
    """Prints the figures of every wing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=ROOT, metavar="DIR", help="default: this checkout")
    checkout = parser.parse_args().checkout
    if not (checkout / "server").is_dir():
        parser.error(f"{checkout}: not a checkout: no folder `server` in it")
    print(f"{'wing':<20}", *(f"{title:>8}" for title in ("files", "lines", "arrows", "rooms'", "floors", "circles")))
    for wing in WINGS:
        show(wing, measure(wing, checkout))


if __name__ == "__main__":
    main()
