"""Packs step functions that others published, and prints a table of what each became, and why.

`python examples/programs/survey.py DIR` writes them into the folder DIR, to be served from there; it takes two minutes. What was
not fetched (`fetch.py`) is left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))  # `benchmarks` is there, from wherever this is started
sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `programs.…`

from programs.fetch import missing
from programs.published import PUBLISHED, Published

from stepstream_server.bundles import BundleError, inspect

_BATCHING, _LARGEST = "batching", "largest batch"  # as `inspect` calls them


class Row(NamedTuple):
    """The outcome of packing one file."""

    title: str
    package: str
    file: str
    batching: str  # as the server says it
    largest: str


def row(published: Published, folder: Path) -> Row:
    """Writes a bundle and has it tried in full, or finds out why it is refused."""
    try:
        bundle = published.bundle(folder)
        facts = _facts(inspect(bundle.path).text)
        became = facts[_BATCHING], facts[_LARGEST].split(",")[0]
    except BundleError as error:
        became = f"refused: {error}", ""
    return Row(published.title, str(published.package), published.file, *became)


def _facts(text: str) -> dict[str, str]:
    """Names and values of the lines in which `inspect` describes a bundle."""
    lines = [line.strip() for line in text.splitlines()]
    return {name: line.removeprefix(name).strip() for line in lines for name in (_BATCHING, _LARGEST) if line.startswith(name)}


def main() -> None:
    """Prints the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where bundles are written")
    folder = parser.parse_args().folder
    print("| Model | Package | File | What it became | Largest batch |\n|---|---|---|---|---|")
    for published in PUBLISHED:
        if why := missing(published.package):
            print(why, file=sys.stderr)
            continue
        cells = row(published, folder / published.title.lower().replace(" ", "-"))
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
