"""`stepstream close`: one session, or all of a kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any

import typer

from stepstream import Client, SessionEnded, SessionInfo, SessionInUse
from stepstream.cli import show
from stepstream.cli.options import Misuse, ModelVersion, Options, Secret, seconds, secret_of
from stepstream.cli.pipes import STDERR, STDIN, Worker, read_lines

NAMED = 20  # held sessions in a message: what a terminal shows; --json names all


async def close(
    options: Options,
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="A served model's name.", show_default=False)] = None,
    session: Annotated[str | None, typer.Argument(metavar="SESSION", help="A session's id.", show_default=False)] = None,
    *,
    all: Annotated[bool, typer.Option("--all", help="Close many: every session that --model and --idle leave.")] = False,
    only: Annotated[str | None, typer.Option("--model", metavar="MODEL", help="With --all: only those of this model.")] = None,
    idle: Annotated[
        str | None, typer.Option(metavar="TIME", help="With --all: only those without a step for so long: 30s, 5m, 1h, 2d.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: do not ask. Needed where there is no terminal.")] = False,
    secret: Secret = None,
    model_version: ModelVersion = None,
) -> None:
    """Closes a session, or many. Closing one that was closed is fine.

    With --all it says how many there are and asks before it closes them. Sessions that a stream holds stay open: they are named,
    and the exit code is 1.

    Examples:
        stepstream close ecg bed-7
        stepstream close --all --model ecg --idle 1h
        stepstream close --all --yes --json | jq '.closed | length'
    """
    if all:
        if model is not None:
            raise Misuse("MODEL SESSION: expected none with --all, which --model and --idle narrow down")
        await _close_all(options, Choice(only, model_version, idle), yes=yes)
    elif only is not None or idle is not None or yes:
        raise Misuse("--model, --idle, --yes: expected --all with them")
    elif model is None or session is None:
        raise Misuse("MODEL SESSION: expected both, or --all")
    else:
        proof = secret_of(secret)
        async with options.client() as client:
            steps = await client.close_session(model, session, secret=proof, version=model_version)
        told = {"model": model, "id": session, "next_seq": steps}
        typer.echo(show.document(told) if options.json else f"closed {session}{f' after {steps} steps' if steps else ''}")


class Choice:
    """The sessions that are meant. Raises Misuse for an `idle` that is no time."""

    def __init__(self, model: str | None, version: int | None, idle: str | None) -> None:
        self._model = model
        self._version = version
        try:
            self._idle_seconds = 0.0 if idle is None else seconds(idle)
        except ValueError as error:
            raise Misuse(f"--idle: {error}") from None
        self.kind = f"{f' of {model}' if model else ''}{f', idle for {idle} or longer' if idle else ''}"

    async def of(self, client: Client) -> list[SessionInfo]:
        """Those that are open now."""
        infos = client.list_sessions(self._model, version=self._version)
        return [info async for info in infos if info.idle >= self._idle_seconds]


async def _close_all(options: Options, choice: Choice, *, yes: bool) -> None:
    if not yes and not (os.isatty(STDIN) and os.isatty(STDERR)):
        raise Misuse("--yes: expected it with --all, since there is no terminal to ask at")
    closed: list[dict[str, Any]] = []
    async with options.client() as client:
        free, held = await _meant(client, choice, ask=not yes)
        for info in free:
            try:
                steps = await client.close_session(info.model, info.id, version=info.version)
                closed.append({"model": info.model, "id": info.id, "next_seq": steps})
            except SessionInUse:  # attached meanwhile
                held.append(info)
            except SessionEnded:
                continue
    record = {"closed": closed, "held": [{"model": info.model, "id": info.id} for info in held]}
    typer.echo(show.document(record) if options.json else f"closed {_counted(closed)}")
    if held:
        raise SessionInUse(f"{_counted(held)} held by streams left open: {_named(held)}")


async def _meant(client: Client, choice: Choice, *, ask: bool) -> tuple[list[SessionInfo], list[SessionInfo]]:
    """Sessions to close, and those that streams hold. Somebody who is asked and declines means none."""
    found = await choice.of(client)
    free, held = [info for info in found if not info.attached], [info for info in found if info.attached]
    if not ask or not free:
        return free, held
    if not await _agreed(f"Close {_counted(free)}{choice.kind}?{_staying(held)}"):
        return [], []
    still = {(info.model, info.version, info.id) for info in await choice.of(client)}  # others have been stepped meanwhile
    return [info for info in free if (info.model, info.version, info.id) in still], held


async def _agreed(question: str) -> bool:
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    with Worker() as reading:
        async with aclosing(read_lines(reading)) as batches:
            async for lines in batches:
                return lines[0].strip().lower() in (b"y", b"yes")
    return False


def _counted(sessions: Sequence[object]) -> str:
    return f"{len(sessions):,} session{'' if len(sessions) == 1 else 's'}"


def _staying(held: Sequence[SessionInfo]) -> str:
    return f" {len(held):,} more are held by streams and stay." if held else ""


def _named(held: Sequence[SessionInfo]) -> str:
    more = f" and {len(held) - NAMED:,} more" if len(held) > NAMED else ""
    return ", ".join(f"{info.model} {info.id}" for info in held[:NAMED]) + more
