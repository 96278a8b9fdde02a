"""Fields that many messages have: durations, ids, counts of sessions. What is wrong is refused by the field's name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from stepstream_server.errors import CallerError, Reason

# Sessions that one message may open or attach: an answer with ids of 128 characters takes 2 MB, half of gRPC's limit of 4 MiB.
MAX_SESSIONS_PER_MESSAGE = 10_000
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SHOWN = 130  # characters of a wrong id that its error repeats: enough to see that it is too long


def encode_duration(seconds: float) -> Duration:
    """Exact to the nanosecond."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def decode_duration(field: str, duration: Duration) -> float:
    """Seconds. Raises CallerError(INVALID_ARGUMENT) unless positive."""
    seconds = duration.seconds + duration.nanos / 1e9
    if seconds <= 0:
        raise CallerError(Reason.INVALID_ARGUMENT, f"{field}: expected more than 0 s, got {seconds} s", field=field)
    return seconds


def check_id(field: str, id: str) -> str:
    """Raises CallerError(INVALID_ARGUMENT) for what no session can be called."""
    if not _ID.fullmatch(id):
        raise CallerError(
            Reason.INVALID_ARGUMENT,
            f"{field}: expected 1 to 128 characters of A-Z a-z 0-9 . _ : -, got {id[:_SHOWN]!r}",
            field=field,
        )
    return id


def check_request_id(request_id: str) -> str:
    """As an id, or empty: a repeat is another request. Raises CallerError(INVALID_ARGUMENT)."""
    return check_id("request_id", request_id) if request_id else ""


def check_count(count: int) -> None:
    """Raises CallerError(BLOCK_TOO_LARGE) for more sessions than one message may open or attach."""
    if count > MAX_SESSIONS_PER_MESSAGE:
        raise CallerError(
            Reason.BLOCK_TOO_LARGE,
            f"sessions: expected at most {MAX_SESSIONS_PER_MESSAGE} in one message, got {count}",
            field="sessions",
        )


def decode_ids(field: str, ids: Sequence[str], count: int) -> list[str]:
    """Ids of `count` sessions to be made, empty ones where the engine names them.

    Raises CallerError(INVALID_ARGUMENT), or CallerError(BLOCK_TOO_LARGE) for too many.
    """
    check_count(count)
    if not ids:
        return [""] * count
    if len(ids) != count:
        raise CallerError(Reason.INVALID_ARGUMENT, f"{field}: expected none or {count}, got {len(ids)}", field=field)
    return [check_id(f"{field}[{index}]", id) for index, id in enumerate(ids)]
