"""The `stepstream-server` command."""

from stepstream_server.cli.commands import app, main

__all__ = ["app", "main"]
