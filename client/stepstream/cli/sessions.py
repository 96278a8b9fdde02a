"""Commands about models and sessions: look, open, step, copy, move."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from stepstream import SessionInfo
from stepstream.cli import show
from stepstream.cli.columns import arrays, chosen, input_columns
from stepstream.cli.options import (
    AtSeq,
    Durable,
    IdleTtl,
    Misuse,
    Model,
    ModelVersion,
    Options,
    Secret,
    SessionId,
    Wanted,
    list_of,
    secret_of,
)
from stepstream.cli.pipes import STDOUT, Worker, read_all, write

FORKS_AT_ONCE = 1000  # more than a terminal shows, far below what a server takes in one call


async def models(options: Options) -> None:
    """Lists the models that are served, with their inputs and outputs.

    Examples:
        stepstream models
        stepstream models --json | jq -r '.[].name'
    """
    async with options.client() as client:
        typer.echo(show.models(await client.models(), as_json=options.json))


async def sessions(
    options: Options,
    *,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Only of this model. [default: of all]")] = None,
    limit: Annotated[int, typer.Option(min=1, help="So many at most.")] = 100,
) -> None:
    """Lists open sessions.

    Each with its steps applied and pending, its age, the time since its last step and its slot; held: by a stream; where: in the
    server's memory, or in its store alone; lag: steps of a durable session that are not in the store yet.

    Examples:
        stepstream sessions --model ecg --limit 20
    """
    found: list[SessionInfo] = []
    async with options.client() as client:
        async for info in client.list_sessions(model, page_size=min(limit + 1, 1000)):
            if len(found) == limit:
                typer.echo(f"There are more than {limit}: --limit shows them.", err=True)
                break
            found.append(info)
    typer.echo(show.sessions(found, as_json=options.json))


async def open_(
    options: Options,
    model: Model,
    *,
    id: Annotated[str | None, typer.Option(metavar="ID", help="Its id. [default: the server makes one]")] = None,
    idle_ttl: IdleTtl = None,
    durable: Durable = False,
    model_version: ModelVersion = None,
) -> None:
    """Opens a session and prints its id and secret.

    The secret proves that it is yours: to stream with it, and to do anything with it while a stream holds it.

    Examples:
        stepstream open ecg --id bed-7
        secret=$(stepstream open ecg --id bed-8 --json | jq -r .secret)
    """
    async with options.client() as client:
        session = await client.open_session(model, version=model_version, id=id, idle_ttl=idle_ttl, durable=durable)
        await session.detach()
    typer.echo(show.owned(session, as_json=options.json))


async def step(
    options: Options,
    model: Model,
    session: SessionId,
    values: Annotated[list[str], typer.Argument(metavar="VALUES...", help="The inputs' numbers in order.", show_default=False)],
    *,
    seq: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="The step's number: repeated, it does not move the state twice.")
    ] = None,
    outputs: Wanted = None,
    secret: Secret = None,
    model_version: ModelVersion = None,
) -> None:
    """Applies one step to an open session and prints its outputs.

    For a try now and then; `stream` is many times faster.

    Examples:
        stepstream step ecg bed-7 -1.2
        stepstream step ecg bed-7 -1.2 --outputs 'ahead_9[10]'
    """
    proof = secret_of(secret)
    async with options.client() as client:
        served = await client.model(model, model_version)
        columns = input_columns(served)
        if len(values) != len(columns):
            raise Misuse(f"VALUES: expected {len(columns)} ({', '.join(each.name for each in columns)}), got {len(values)}")
        row = [column.parsed(text) for column, text in zip(columns, values, strict=True)]
        wanted = chosen(served, list_of(outputs))
        inputs = {name: array[0] for name, array in arrays(served, [row]).items()}
        answer = await client.step(model, session, inputs, seq=seq, secret=proof, version=served.version)
    typer.echo(show.outputs(wanted, answer, as_json=options.json))


async def fork(
    options: Options,
    model: Model,
    session: SessionId,
    *,
    count: Annotated[int, typer.Option(min=1, max=FORKS_AT_ONCE, metavar="N", help="How many.")] = 1,
    ids: Annotated[str | None, typer.Option(metavar="IDS", help="Their ids. [default: the server makes them]")] = None,
    at_seq: AtSeq = None,
    secret: Secret = None,
    model_version: ModelVersion = None,
) -> None:
    """Makes new sessions that go on from an open one.

    They begin where it stands and have secrets of their own; it does not notice.

    Examples:
        stepstream fork ecg bed-7 --ids bed-7-what-if
        stepstream fork ecg bed-7 --count 10
    """
    names = list_of(ids) or None
    if names and count not in (1, len(names)):
        raise Misuse(f"--ids: expected as many as --count, {count}, got {len(names)}")
    proof = secret_of(secret)
    async with options.client() as client:
        wanted = len(names) if names else count
        group = await client.fork_session(model, session, wanted, secret=proof, at=at_seq, ids=names, version=model_version)
        await group.detach()
    typer.echo(show.all_owned(group, as_json=options.json))


async def export(
    options: Options,
    model: Model,
    session: SessionId,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; - is stdout.", show_default=False)],
    *,
    at_seq: AtSeq = None,
    move: Annotated[bool, typer.Option("--move", help="Also end it here: callers hear that it has moved.")] = False,
    secret: Secret = None,
    model_version: ModelVersion = None,
) -> None:
    """Writes a session as a snapshot.

    `stepstream import` turns it into a session again, at this server or at another one with the same model. It holds no
    secret. A file of that name is replaced once the snapshot is whole.

    Examples:
        stepstream export ecg bed-7 bed-7.snapshot
        stepstream export ecg bed-7 - --move | stepstream import - --server other:8101
    """
    if file == "-" and os.isatty(STDOUT):
        raise Misuse("FILE: expected a file or a pipe for a snapshot, which is binary, got a terminal")
    proof = secret_of(secret)
    with Replacing(file) as target:
        async with options.client() as client:
            snapshot = await client.export_session(model, session, secret=proof, at=at_seq, close=move, version=model_version)
        target.write(snapshot)
    told = {"model": model, "id": session, "bytes": len(snapshot), "file": file, "moved": move}
    text = f"wrote {session}, {len(snapshot)} bytes{', and ended it here' if move else ''}"
    typer.echo(show.document(told) if options.json else text, err=file == "-")


async def import_(
    options: Options,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A snapshot; - is stdin.", show_default=False)],
    *,
    id: Annotated[str | None, typer.Option(metavar="ID", help="Its id. [default: the one in the snapshot]")] = None,
    durable: Durable = False,
) -> None:
    """Makes a session of a snapshot.

    Prints its id and its new secret.

    Examples:
        stepstream import bed-7.snapshot --id bed-7-again
    """
    snapshot = await read_snapshot(file)
    async with options.client() as client:
        session = await client.import_session(snapshot, id=id, durable=durable)
        await session.detach()
    typer.echo(show.owned(session, as_json=options.json, bitwise=session.bitwise))
    if not session.bitwise:
        typer.echo("The snapshot is of another kind of machine or version: outputs will be close, not the same bits.", err=True)


async def read_snapshot(name: str) -> bytes:
    """A file's bytes; `-` is stdin. Raises Misuse for one that cannot be read."""
    try:
        if name == "-":
            return await read_all()
        with Worker() as reading:
            return await reading.call(Path(name).read_bytes)
    except OSError as error:
        raise Misuse(f"FILE: expected one that can be read, got {name}: {error.strerror}") from None


class Replacing:
    """A file that is written beside the one it replaces, so that a failure leaves that one as it was; `-` is stdout.

    It is opened before the snapshot is asked for: where nothing can be written, a session must not have moved.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._path = Path(name)
        self._beside = self._path.parent / f".{self._path.name}.{os.getpid()}"

    def __enter__(self) -> Replacing:
        if self._name == "-":
            return self
        if self._path.is_dir():
            raise Misuse(f"FILE: expected a file, got the folder {self._name}")
        try:
            self._beside.touch(0o600, exist_ok=False)  # a state can tell what was streamed
        except OSError as error:
            raise Misuse(f"FILE: expected one that can be written, got {self._name}: {error.strerror}") from None
        return self

    def write(self, data: bytes) -> None:
        """All of it."""
        if self._name == "-":
            write(data)
        else:
            self._beside.write_bytes(data)
            self._beside.replace(self._path)

    def __exit__(self, *_: object) -> None:
        if self._name != "-":
            self._beside.unlink(missing_ok=True)
