"""Sessions outside a stream: what is asked for, what is told of them, and where a listing goes on."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import NamedTuple

from stepstream_proto.v1 import inference_pb2, session_pb2
from stepstream_server.engine.ports import NO_SEQ, Opened, SessionInfo
from stepstream_server.errors import CallerError, Reason, StepStreamError
from stepstream_server.rpc.columns import check_seq
from stepstream_server.rpc.convert.fields import decode_duration, encode_duration
from stepstream_server.rpc.door import ModelDoor
from stepstream_server.rpc.status import wire_error

_PAGE_SIZE = 100  # sessions of a page whose size nobody named: some 20 KB
_MAX_PAGE_SIZE = 1000  # the engine describes as many in a millisecond, which steps wait for


class Place(NamedTuple):
    """Where a listing goes on: at a model's session number."""

    model: str
    version: int
    start: int


def decode_idle_ttl(
    request: session_pb2.OpenSessionRequest | session_pb2.OpenSessionsRequest | inference_pb2.OpenOnStream,
) -> float | None:
    """Seconds, None if the caller leaves it to the engine. Raises CallerError, also for what is not to be had yet."""
    if request.durable:
        raise CallerError(Reason.NOT_IMPLEMENTED, "durable: sessions cannot be durable yet", field="durable")
    return decode_duration("idle_ttl", request.idle_ttl) if request.HasField("idle_ttl") else None


def decode_at_seq(request: session_pb2.ForkSessionRequest | session_pb2.ExportSessionRequest) -> int:
    """The number asked for, or NO_SEQ. Raises CallerError(INVALID_ARGUMENT)."""
    return check_seq("at_seq", request.at_seq) if request.HasField("at_seq") else NO_SEQ


def decode_page_size(size: int) -> int:
    """Sessions of one page. Raises CallerError(INVALID_ARGUMENT) for less than none."""
    if size < 0:
        raise CallerError(Reason.INVALID_ARGUMENT, f"page_size: expected 0 or more, got {size}", field="page_size")
    return min(size or _PAGE_SIZE, _MAX_PAGE_SIZE)


def encode_page_token(place: Place) -> str:
    """Opaque to the caller."""
    return base64.urlsafe_b64encode("/".join(map(str, place)).encode()).decode()


def decode_page_token(token: str) -> Place:
    """Raises CallerError(INVALID_ARGUMENT) for what `encode_page_token` has not made."""
    try:
        model, version, start = base64.urlsafe_b64decode(token).decode().rsplit("/", 2)
        place = Place(model, int(version), check_seq("page_token", int(start)))
    except ValueError:
        raise wrong_page_token(token) from None
    if encode_page_token(place) != token:
        raise wrong_page_token(token)
    return place


def wrong_page_token(token: str) -> CallerError:
    """For a token that is not one, or not of the listing asked for."""
    message = f"page_token: expected what the page before gave for the same model and version, got {token[:100]!r}"
    return CallerError(Reason.INVALID_ARGUMENT, message, field="page_token")


def encode_session(door: ModelDoor, info: SessionInfo) -> session_pb2.Session:
    """What can be known about a session."""
    status = session_pb2.SESSION_STATUS_QUARANTINED if info.quarantined else session_pb2.SESSION_STATUS_OPEN
    return session_pb2.Session(
        model=door.spec.name,
        version=door.spec.version,
        id=info.id,
        status=status,
        next_seq=info.next_seq,
        acked=info.acked,
        epoch=info.epoch,
        pending_steps=info.pending_steps,
        age=encode_duration(info.age),
        idle=encode_duration(info.idle),
        idle_ttl=encode_duration(info.idle_ttl),
        attached=info.attached,
        slot=info.slot,
    )


def encode_opened(results: Iterable[Opened | StepStreamError]) -> list[session_pb2.OpenedSession]:
    """One entry per session asked for."""
    return [
        session_pb2.OpenedSession(error=wire_error(result))
        if isinstance(result, StepStreamError)
        else session_pb2.OpenedSession(id=result.id, secret=result.secret)
        for result in results
    ]
