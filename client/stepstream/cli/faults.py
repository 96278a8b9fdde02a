"""What goes wrong, as exit codes and as words on stderr: what happened and what to do about it."""

from __future__ import annotations

import enum
import json

import stepstream
from stepstream import StepStreamError, Unavailable


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
    stepstream.SecretMismatch: "Give the --secret that `open` printed.",
    stepstream.SequencePassed: "Leave --at-seq out to take the session as it stands.",
    stepstream.SequenceMismatch: "The session is not as far as that: leave --at-seq out, or send the missing steps.",
    stepstream.SessionCapacity: "Try again later, or close sessions.",
    stepstream.Overloaded: "Try again later.",
    stepstream.SnapshotCorrupt: "Export it again.",
    Unavailable: "Is the server running there? --server HOST:PORT says where to look.",
    NoMetrics: "Is the server running there? --metrics HOST:PORT says where to look.",
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
    said_so = isinstance(error, stepstream.ServerDraining)
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
    """The same for what the command itself does not accept, or cannot do."""
    return json.dumps({"error": {"reason": reason, "message": message}}) if as_json else f"stepstream: {message}"
