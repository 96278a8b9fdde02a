"""The table of statuses, and errors as clients find them in trailers and in band."""

from __future__ import annotations

import re

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from stepstream_server.errors import CallerError, Reason, ServerFault, StepStreamError
from stepstream_server.rpc.boundary import STATUS, call_status, wire_error


def details(error: StepStreamError) -> tuple[Status, dict[type[Message], Message]]:
    """The status in the trailers, and its details by type."""
    trailers = dict(call_status(error).trailing_metadata)
    status = Status.FromString(trailers["grpc-status-details-bin"])
    found: dict[type[Message], Message] = {}
    for packed in status.details:
        for kind in (ErrorInfo, RetryInfo, BadRequest):
            message = kind()
            if packed.Unpack(message):
                found[kind] = message
    return status, found


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_one_status(reason: Reason) -> None:
    """The code in the trailers, in band and in the table is the same, and never OK or UNKNOWN."""
    error = CallerError(reason, "message")
    status, found = details(error)
    assert STATUS[reason] not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)
    assert status.code == wire_error(error).code == STATUS[reason].value[0]
    assert call_status(error).code is STATUS[reason]
    info = found[ErrorInfo]
    assert isinstance(info, ErrorInfo)
    assert (info.reason, info.domain) == (reason.name, "stepstream.v1")
    assert wire_error(error).reason == reason.name
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]", info.reason)


def test_a_mismatch_tells_the_expected_number() -> None:
    """Also when that is 0."""
    for expected in (0, 12):
        _, found = details(CallerError(Reason.SEQUENCE_MISMATCH, "gap", expected_seq=expected))
        info = found[ErrorInfo]
        assert isinstance(info, ErrorInfo)
        assert dict(info.metadata) == {"expectedSeq": str(expected)}


def test_advice_to_wait_is_given_both_ways() -> None:
    """The error's own advice counts before the table's."""
    error = CallerError(Reason.QUEUE_FULL, "full", retry_delay_seconds=1.5)
    _, found = details(error)
    retry = found[RetryInfo]
    assert isinstance(retry, RetryInfo)
    assert retry.retry_delay.ToMilliseconds() == wire_error(error).retry_delay_ms == 1500
    assert wire_error(CallerError(Reason.QUEUE_FULL, "full")).retry_delay_ms > 0
    assert RetryInfo not in details(CallerError(Reason.SESSION_NOT_FOUND, "none"))[1]


def test_a_wrong_field_is_named() -> None:
    """BadRequest carries the field and what was wrong with it; without a field there is none."""
    _, found = details(CallerError(Reason.INVALID_ARGUMENT, "ids: too many", field="ids"))
    bad = found[BadRequest]
    assert isinstance(bad, BadRequest)
    assert [(each.field, each.description) for each in bad.field_violations] == [("ids", "ids: too many")]
    assert BadRequest not in details(ServerFault(Reason.ENGINE_FAILED, "crashed"))[1]
