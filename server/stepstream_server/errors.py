"""What can go wrong, by whose fault it is, in the words of the contract and without any transport's codes.

`Reason` is the stable name that programs switch on; `rpc/boundary.py` alone maps it to a gRPC status.
"""

from __future__ import annotations

import enum


class Reason(enum.IntEnum):
    """Why something was refused or failed. Names appear on the wire; numbers only inside the server."""

    MODEL_NOT_FOUND = 1
    MODEL_NOT_READY = 2
    SESSION_NOT_FOUND = 3
    SESSION_CLOSED = 4
    SESSION_EXPIRED = 5
    SESSION_EVICTED = 6
    SESSION_MOVED = 7
    SESSION_EXISTS = 8
    SESSION_IN_USE = 9
    SESSION_CAPACITY = 10
    SESSION_QUARANTINED = 11
    SECRET_MISMATCH = 12
    HANDLE_UNKNOWN = 13
    HANDLE_IN_USE = 14
    SEQUENCE_MISMATCH = 15
    ANSWER_DISCARDED = 16
    ANSWER_NOT_KEPT = 17
    WINDOW_FULL = 18
    QUEUE_FULL = 19
    DEADLINE_EXCEEDED = 20
    INVALID_ARGUMENT = 21
    NON_FINITE_INPUT = 22
    INPUT_OUT_OF_RANGE = 23
    NON_FINITE_STATE = 24
    BLOCK_TOO_LARGE = 25
    MIXED_MODELS = 26
    SERVER_DRAINING = 27
    ENGINE_FAILED = 28
    NOT_IMPLEMENTED = 29
    SEQUENCE_PASSED = 30
    SNAPSHOT_CORRUPT = 31
    MODEL_MISMATCH = 32
    STREAM_REPLACED = 33
    ENGINE_LOST = 34
    MODEL_FAILED = 35
    UNAUTHENTICATED = 36
    NOT_PERMITTED = 37
    SESSION_LOST = 38
    STORE_UNAVAILABLE = 39
    NO_STORE = 40
    RECORD_UNREADABLE = 41


class StepStreamError(Exception):
    """Any error that a caller may see; `str()` is safe to show to them."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        field: str = "",
        expected_seq: int = 0,
        retry_delay_seconds: float = 0.0,
        since: int | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field  # path of the offending field of the request, "" if none
        self.expected_seq = expected_seq  # with SEQUENCE_MISMATCH and failed steps: the next number accepted
        self.retry_delay_seconds = retry_delay_seconds  # 0: no advice
        self.since = since  # with SESSION_LOST: the number of the first step that is lost


class CallerError(StepStreamError):
    """The caller can mend it: what was asked does not fit the rules or the moment."""


class ServerFault(StepStreamError):
    """The server's own failure; the caller did nothing wrong."""


class AccessError(Exception):
    """A file of tenants cannot be used. The message names the file, the entry and the field, and repeats no secret."""


class BundleError(Exception):
    """A bundle cannot be served. The message names the file and the field."""
