"""`stepstream-server admin`: what the owner of a running server asks it over its socket, as tables or lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from stepstream_server.admin.client import AdminError, ask
from stepstream_server.admin.requests import RequestError, Row, parse
from stepstream_server.cli.ending import FAILED, WRONG_USAGE, fail
from stepstream_server.sources import CONFIG_VARIABLE, SettingsError, load, variable

administration = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

_Socket = Annotated[Path | None, typer.Option(help="Of the server, in place of the setting `admin`.")]
_Config = Annotated[Path | None, typer.Option(help=f"TOML file of settings. [environment: {CONFIG_VARIABLE}]")]
_Json = Annotated[bool, typer.Option("--json", help="An object a line, in place of a table.")]


@administration.callback()
def _root() -> None:
    """Looks after a running server, over its socket.

    The socket is the one that the setting `admin` names, or --socket. Only the server's owner can open it, and the server logs
    each request.
    """


@administration.command("list")
def list_sessions(
    model: Annotated[str | None, typer.Option(help="This one's only.")] = None,
    tenant: Annotated[str | None, typer.Option(help="This one's only.")] = None,
    as_json: _Json = False,
    socket: _Socket = None,
    config: _Config = None,
) -> None:
    """Lists open sessions of all tenants."""
    _show(_rows(socket, config, "list", model=model, tenant=tenant), as_json)


@administration.command()
def close(
    model: Annotated[str, typer.Option(help="Whose sessions they are.")],
    model_version: Annotated[int | None, typer.Option(help="This one only; else each that is served.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose they are; empty where there are no tenants.")] = "",
    session: Annotated[str | None, typer.Option(metavar="ID", help="The one to close.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of the tenant, in place of one.")] = False,
    as_json: _Json = False,
    socket: _Socket = None,
    config: _Config = None,
) -> None:
    """Closes sessions without their secrets, also those that streams hold, and lists what it has closed."""
    wanted = {"model": model, "model_version": model_version, "tenant": tenant, "session": session, "all": every}
    _show(_rows(socket, config, "close", **wanted), as_json)


@administration.command()
def tenants(as_json: _Json = False, socket: _Socket = None, config: _Config = None) -> None:
    """Lists what each tenant has of each model, and what it may have."""
    _show(_rows(socket, config, "tenants"), as_json)


@administration.command()
def drain(socket: _Socket = None, config: _Config = None) -> None:
    """Has the server finish what it accepted and end, as SIGTERM does."""
    for _ in _rows(socket, config, "drain"):
        typer.echo("draining")


@administration.command()
def reload(socket: _Socket = None, config: _Config = None) -> None:
    """Has the server read its file of tenants, and tells whether it has taken it."""
    for row in _rows(socket, config, "reload"):
        typer.echo(f"taken: {row['tenants']} tenants")


def _rows(socket: Path | None, config: Path | None, command: str, **arguments: object) -> Iterator[Row]:
    """Asks the server for rows; ends the command if it does not."""
    try:
        request = parse(json.dumps({"command": command, **arguments}).encode())
    except RequestError as error:
        fail(str(error), WRONG_USAGE)
    try:
        yield from ask(socket or _set(config), request)
    except AdminError as error:
        fail(str(error), FAILED)


def _set(config: Path | None) -> Path:
    """The socket that the settings name; ends the command if they name none."""
    try:
        path = load({}, os.environ, config).admin
    except SettingsError as error:
        fail(str(error), WRONG_USAGE)
    if not path:
        fail(f"admin: expected the path of a socket from --socket, {variable('admin')} or a file, got none", WRONG_USAGE)
    return Path(path)


def _show(rows: Iterable[Row], as_json: bool) -> None:
    """On stdout: as they come, or below each other once all have come."""
    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    told = list(rows)
    lines = [list(told[0]), *([_cell(value) for value in row.values()] for row in told)] if told else []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(map(str.ljust, line, widths)).rstrip())


def _cell(value: Any) -> str:
    """A value in a table; nothing, for what has no limit, is a dash."""
    return "-" if value is None or value == "" else str(value).lower() if isinstance(value, bool) else str(value)
