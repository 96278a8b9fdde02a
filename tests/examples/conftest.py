"""Makes the scripts of `examples/ecg` and `examples/code` importable by the names under which they import each other."""

from __future__ import annotations

import sys
from pathlib import Path

for example in ("ecg", "code"):
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / example))
