"""Writes the bundles of the ten modules beside it, which tests serve: `.venv/bin/python tests/support/programs/export.py`.

It takes half a minute. Run it after a change to a module, or to what `save_program` writes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.programs import BUNDLES
from support.programs.modules import KINDS

if __name__ == "__main__":
    for name, kind in KINDS.items():
        bundle = kind.save(BUNDLES / name)
        print(name, sum(each.stat().st_size for each in bundle.path.iterdir()), "bytes")
