"""The `stepstream` command: sessions from a shell, over the client library and nothing below it.

It comes with the extra `cli`; `import stepstream` never brings it along.
"""

from __future__ import annotations


def main() -> None:
    """The console script."""
    try:
        from stepstream.cli.app import app
        from stepstream.cli.pipes import settle
    except ModuleNotFoundError as missing:
        raise SystemExit(f"stepstream needs {missing.name}: pip install 'stepstream[cli]'") from None
    settle()
    app()
