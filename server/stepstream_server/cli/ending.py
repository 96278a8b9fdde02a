"""How the command ends. Exit codes: 0 well, 1 failed, 2 wrong usage or settings."""

from __future__ import annotations

from typing import NoReturn

import typer

FAILED, WRONG_USAGE = 1, 2


def fail(message: str, code: int) -> NoReturn:
    """Says on stderr why, and ends."""
    typer.echo(message, err=True)
    raise typer.Exit(code)
