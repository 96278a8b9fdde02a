"""What can be known about a session without touching it, as a frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from stepstream_proto.v1 import session_pb2


@dataclass(frozen=True)
class SessionInfo:
    """A session as the server saw it when it answered. Times are in seconds."""

    model: str
    version: int
    id: str
    quarantined: bool
    """Whether a step would have made the state non-finite: only reset and close are accepted then."""
    next_seq: int
    """Steps and resets applied so far: the number of the next step."""
    acked: int
    """Answers below this count are no longer kept."""
    epoch: int
    """Grows when the session is restored elsewhere."""
    pending_steps: int
    """Steps admitted and not yet applied."""
    age: float
    """Time since it was opened."""
    idle: float
    """Time since its last step."""
    idle_ttl: float
    """Idle time after which it is closed."""
    attached: bool
    """Whether a stream holds it."""
    slot: int
    """Row of the server's state pool."""


def session_info(session: session_pb2.Session) -> SessionInfo:
    """The record for a message."""
    return SessionInfo(
        model=session.model,
        version=session.version,
        id=session.id,
        quarantined=session.status == session_pb2.SESSION_STATUS_QUARANTINED,
        next_seq=session.next_seq,
        acked=session.acked,
        epoch=session.epoch,
        pending_steps=session.pending_steps,
        age=session.age.ToTimedelta().total_seconds(),
        idle=session.idle.ToTimedelta().total_seconds(),
        idle_ttl=session.idle_ttl.ToTimedelta().total_seconds(),
        attached=session.attached,
        slot=session.slot,
    )
