"""Makes the scripts of `examples/ecg` importable by the names under which they import each other."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "ecg"))
