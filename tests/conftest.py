"""Options of the whole test run."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the proof of exactly once goes on."""
    parser.addoption("--examples", type=int, default=2000, help="random histories that exactly once is proved on")
