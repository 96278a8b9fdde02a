"""Ten torch modules, and the bundles that `save_program` makes of them."""

from pathlib import Path

BUNDLES = Path(__file__).parent / "bundles"  # a folder of bundles: `export.py` writes it
