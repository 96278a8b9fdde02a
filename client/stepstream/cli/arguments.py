"""Arguments that several commands take, said once."""

from __future__ import annotations

from typing import Annotated

import typer

from stepstream.cli.faults import Misuse

SECRET_VARIABLE = "STEPSTREAM_SECRET"

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A served model's name.", show_default=False)]
SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="A session's id.", show_default=False)]
ModelVersion = Annotated[
    int | None, typer.Option("--model-version", min=1, max=2**32 - 1, metavar="N", help="[default: the newest served]")
]
Secret = Annotated[
    str | None,
    typer.Option(
        metavar="HEX",
        help="The session's secret, as `open` printed it. Needed only while a stream holds the session."
        f" [environment: {SECRET_VARIABLE}]",
        envvar=SECRET_VARIABLE,
        show_envvar=False,
    ),
]
IdleTtl = Annotated[
    float | None,
    typer.Option(
        min=0.001, metavar="SECONDS", help="Time without a step after which the server closes it. [default: the server's]"
    ),
]
Wanted = Annotated[
    str | None,
    typer.Option(
        "--outputs", metavar="NAMES", help="Outputs wanted, or single numbers of them: next,ahead_9[10]. [default: all]"
    ),
]
AtSeq = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="With just so many steps applied; waits for steps on their way. [default: as it stands]"
    ),
]


def secret_of(text: str | None) -> bytes | None:
    """The secret that people type as hexadecimal digits. Raises Misuse, without repeating it."""
    try:
        return bytes.fromhex(text) if text else None
    except ValueError:
        raise Misuse(f"--secret: expected hexadecimal digits, got {len(text or '')} other characters") from None


def list_of(text: str | None) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in text.split(",")] if text else []
