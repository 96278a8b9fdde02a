"""What commands take and how they end: where the server is, how to speak to it, how to print; exit codes, and errors as words.

Common flags stand before the command or after it. Arguments that several commands take are said here once.
"""

from __future__ import annotations

import enum
import inspect
import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import typer

import stepstream
from stepstream import TLS, Client, ClientOptions, StepStreamError, Unavailable

# What every command takes --------------------------------------------------------------------------------------------

SERVER_VARIABLE = "STEPSTREAM_SERVER"
TOKEN_VARIABLE = "STEPSTREAM_TOKEN"
DEFAULT_SERVER = "127.0.0.1:8101"  # where `stepstream-server serve` listens unless told otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The values of those flags. Raises Misuse for a server that is no address and for a token that cannot be sent."""

    server: str = DEFAULT_SERVER
    json: bool = False
    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^/]+:[0-9]+|(unix|dns):.+", self.server):
            raise Misuse(f"--server: expected HOST:PORT, got {self.server!r}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise Misuse("--tls-cert and --tls-key: expected both or neither, got one")
        if self.token is not None and self.token_file is not None:
            raise Misuse("--token and --token-file: expected one of them, got both")
        try:
            ClientOptions(token=self.token)
        except ValueError as error:
            raise Misuse(f"--{error}") from None

    @classmethod
    def merged(cls, before: Mapping[str, Any], after: Mapping[str, Any]) -> Self:
        """From the flags before and after a command, of which the latter count, else from the environment."""
        given = {name: value for name, value in (*before.items(), *after.items()) if value is not None}
        if server := os.environ.get(SERVER_VARIABLE):
            given.setdefault("server", server)
        if (token := os.environ.get(TOKEN_VARIABLE)) and "token_file" not in given:
            given.setdefault("token", token)
        return cls(**given)

    def client(self, reconnect_seconds: float = 0.0) -> Client:
        """A client of the server, to be entered. People at a shell would rather know at once than wait for a server that is
        not there; only what is under way is worth waiting for, `reconnect_seconds` long."""
        options = ClientOptions(
            reconnect_seconds=reconnect_seconds, tls=self._tls(), token=self.token, token_file=self.token_file
        )
        return Client(self.server, options)

    def _tls(self) -> TLS | None:
        if not (self.tls or self.tls_ca or self.tls_cert):
            return None
        roots, key, chain = (_bytes_of(each) for each in (self.tls_ca, self.tls_key, self.tls_cert))
        return TLS(root_certificates=roots, private_key=key, certificate_chain=chain)


def _bytes_of(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def parameters() -> list[inspect.Parameter]:
    """The flags, as typer reads them from a command's signature. None: not given here."""
    file: dict[str, Any] = {"metavar": "FILE", "exists": True, "dir_okay": False, "readable": True}
    where = f"Where it is served. [environment: {SERVER_VARIABLE}; default: {DEFAULT_SERVER}]"
    seen = f"The token itself. Lists of processes show it: prefer the file or the variable. [environment: {TOKEN_VARIABLE}]"
    flags: dict[str, tuple[Any, Any]] = {
        "server": (str, typer.Option(None, "--server", metavar="HOST:PORT", help=where)),
        "json": (bool, typer.Option(None, "--json", help="Print JSON, also what goes wrong.")),
        "tls": (bool, typer.Option(None, "--tls", help="Encrypt, trusting the usual authorities.")),
        "tls_ca": (Path, typer.Option(None, "--tls-ca", help="Encrypt, trusting these authorities (PEM).", **file)),
        "tls_cert": (Path, typer.Option(None, "--tls-cert", help="Certificate of yours, if the server wants one (PEM).", **file)),
        "tls_key": (Path, typer.Option(None, "--tls-key", help="Its key (PEM).", **file)),
        "token_file": (Path, typer.Option(None, "--token-file", help="The token that lets you in stands there.", **file)),
        "token": (str, typer.Option(None, "--token", metavar="TOKEN", help=seen)),
    }
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind | None, default=option)
        for name, (kind, option) in flags.items()
    ]


# Arguments of several commands ---------------------------------------------------------------------------------------

SECRET_VARIABLE = "STEPSTREAM_SECRET"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds of each."""

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A served model's name.", show_default=False)]
SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="A session's id.", show_default=False)]
ModelVersion = Annotated[
    int | None, typer.Option("--model-version", min=1, max=2**32 - 1, metavar="N", help="[default: the newest served]")
]


def secret_option(help: str) -> Any:
    """`--secret`, which may come from the environment. help: whose it is and when it is needed."""
    told = f"{help} [environment: {SECRET_VARIABLE}]"
    return typer.Option("--secret", metavar="HEX", help=told, envvar=SECRET_VARIABLE, show_envvar=False)


Secret = Annotated[
    str | None,
    secret_option(
        "The session's secret, as `open` printed it: needed while a stream holds the session, and checked whenever it is given."
    ),
]
IdleTtl = Annotated[
    float | None,
    typer.Option(
        min=0.001, metavar="SECONDS", help="Time without a step after which the server closes it. [default: the server's]"
    ),
]
Durable = Annotated[
    bool,
    typer.Option("--durable", help="It survives the death of its server, which must have a store. [default: the server's]"),
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
    if text is None:
        return None
    try:
        if secret := bytes.fromhex(text):
            return secret
    except ValueError:
        raise Misuse(f"--secret: expected hexadecimal digits, got {len(text)} other characters") from None
    raise Misuse("--secret: expected hexadecimal digits, got none")


def list_of(text: str | None) -> list[str]:
    """Names between commas."""
    return [name.strip() for name in text.split(",")] if text else []


def real(text: str) -> float:
    """The number that a text says, in ASCII as programs write it: what else Python takes for one, `1_0` or `\u0661`, is none.

    `nan` and `inf` are numbers. Raises ValueError.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"expected a number in ASCII without underscores, got {text!r}")
    return float(text)


def whole(text: str) -> int:
    """The whole number that a text says: `12`, and `12.0` as spreadsheets write it. Raises ValueError."""
    number = real(text)
    with suppress(ValueError):
        return int(text)  # to the last digit
    if number.is_integer():
        return int(number)
    raise ValueError(f"expected a whole number, got {text!r}")


def seconds(text: str) -> float:
    """A time as people write it, `30s`, `5m`, `1h` or `2d`. Raises ValueError."""
    with suppress(ValueError):
        number = real(text[:-1])
        if text[-1:] in UNITS and 0 <= number < math.inf:
            return number * UNITS[text[-1]]
    raise ValueError(f"expected a time such as 30s, 5m, 1h or 2d, got {text!r}")


# What goes wrong, as exit codes and as words on stderr: what happened and what to do about it ------------------------


class ExitCode(enum.IntEnum):
    """What the command tells the shell."""

    FINE = 0
    REFUSED = 1  # by the server, or a file could not be read or written
    MISUSE = 2  # flags, arguments or input lines
    UNREACHABLE = 3  # no connection, or it broke
    INTERRUPTED = 130  # Ctrl-C: 128 + SIGINT, as shells say it
    PIPE_CLOSED = 141  # whoever read the output has gone: 128 + SIGPIPE
    TERMINATED = 143  # 128 + SIGTERM


class Misuse(Exception):
    """Flags, arguments or input lines that cannot be used: field, expected, actual."""


class AtLine(Exception):
    """An error of the server that belongs to a line of the input."""

    def __init__(self, line: int, error: StepStreamError) -> None:
        super().__init__(line, error)
        self.line = line
        self.error = error


class NoMetrics(Unavailable):
    """Nobody answers where the metrics should be."""


# The reasons that people at a shell meet; the most particular class counts. docs/errors.md tells all of them.
_ADVICE: dict[type[StepStreamError], str] = {
    stepstream.ModelNotFound: "`stepstream models` lists what is served.",
    stepstream.ModelNotReady: "It is still loading: try again in a second.",
    stepstream.ModelMismatch: "Import it at a server with the model it was exported from.",
    stepstream.SessionNotFound: "`stepstream sessions` lists those that are open.",
    stepstream.SessionEnded: "Open another with `stepstream open`.",
    stepstream.SessionMoved: "Go on with it at the server that imported it.",
    stepstream.SessionTaken: "Another client attached it with its secret and goes on with it.",
    stepstream.SessionExists: "Choose another id, or go on with that session by its secret.",
    stepstream.SessionInUse: "A stream holds it: give its --secret, or wait until it is let go.",
    stepstream.SessionQuarantined: "Close it with `stepstream close` and open another.",
    stepstream.SecretMismatch: "Give the --secret that `open` printed. What STEPSTREAM_SECRET says is given as well.",
    stepstream.Unauthenticated: f"Give the token that your server's operator gave you, by --token-file or {TOKEN_VARIABLE}.",
    stepstream.NotPermitted: "Ask your server's operator: only those who run it may do this.",
    stepstream.SequencePassed: "Leave --at-seq out to take the session as it stands.",
    stepstream.SequenceMismatch: "The session is not as far as that: leave --at-seq out, or send the missing steps.",
    stepstream.SessionCapacity: "Try again later, or close sessions.",
    stepstream.Overloaded: "Try again later.",
    stepstream.SnapshotCorrupt: "Export it again.",
    Unavailable: "Is the server running there? --server HOST:PORT says where to look, --tls and --tls-ca that it speaks TLS.",
    NoMetrics: "Is the server running there? --metrics HOST:PORT says where to look.",
    stepstream.SessionLost: "What was not in the server's store is gone: open another, and feed it again.",
    stepstream.NoStore: "Leave --durable out, or ask your server's operator for a store.",
    stepstream.StoreUnavailable: "Its store does not answer: try again later.",
    stepstream.RecordUnreadable: "Ask your server's operator: the record stays in the store as it is.",
    stepstream.EngineLost: "Its process that computes has ended: try again once it has been restarted.",
    stepstream.ServerDraining: "It is about to stop: try again, another replica or the restarted server answers.",
    stepstream.ServerFault: "The server's log says more.",
}


def advice(error: StepStreamError) -> str:
    """What to do about it; "" where the message says all."""
    return next((_ADVICE[kind] for kind in type(error).__mro__ if kind in _ADVICE), "")


def exit_code(error: StepStreamError) -> ExitCode:
    """Whether the server refused, or was not there to do so."""
    unreachable = isinstance(error, (Unavailable, stepstream.DeadlineExceeded))
    said_so = isinstance(error, (stepstream.ServerDraining, stepstream.StoreUnavailable))
    return ExitCode.UNREACHABLE if unreachable and not said_so else ExitCode.REFUSED


def told(error: StepStreamError, line: int | None, *, as_json: bool) -> str:
    """The error for stderr: for people, or as one JSON object."""
    reason = error.reason or error.code.name
    if as_json:
        fields = {"reason": reason, "message": error.message, "advice": advice(error), "retry_delay": error.retry_delay}
        return json.dumps({"error": fields if line is None else {**fields, "line": line}})
    where = "" if line is None else f"line {line}: "
    later = "" if error.retry_delay is None else f" (in {error.retry_delay:g} s)"
    lines = [f"stepstream: {where}{error.message} [{reason}]", advice(error) + later]
    return "\n".join(each for each in lines if each)


def told_plainly(message: str, reason: str, *, as_json: bool) -> str:
    """The words for stderr where the command itself does not accept something, or cannot do it."""
    return json.dumps({"error": {"reason": reason, "message": message}}) if as_json else f"stepstream: {message}"
