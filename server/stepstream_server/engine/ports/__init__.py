"""The engine's seams, as Protocols and the records that cross them. numpy arrays and plain values only.

The engine port: front doors `submit` commands, which never waits, and get one `deliver` call per turn. Neither side holds an
object per step, so both can live in one process or in two. The backend port computes batches; the observer port reports turns.
Every column of a record is a numpy array with one entry per row; `n` is the number of rows.
"""

from stepstream_server.engine.ports.backend import Backend, Computed
from stepstream_server.engine.ports.basics import NO_SEQ, NO_STREAM, Ending, Floats, Ints, Keep, Tensor
from stepstream_server.engine.ports.commands import (
    Acknowledge,
    Attach,
    Block,
    Call,
    Close,
    Command,
    Detach,
    DoorLost,
    Drain,
    Get,
    Open,
    Reset,
    StreamEnded,
)
from stepstream_server.engine.ports.observer import EngineStats, Launch, Observer, TurnReport
from stepstream_server.engine.ports.results import (
    Answers,
    Delivery,
    Detached,
    Door,
    Opened,
    Reply,
    RowErrors,
    SessionInfo,
    Sink,
)

__all__ = [
    "NO_SEQ",
    "NO_STREAM",
    "Acknowledge",
    "Answers",
    "Attach",
    "Backend",
    "Block",
    "Call",
    "Close",
    "Command",
    "Computed",
    "Delivery",
    "Detach",
    "Detached",
    "Door",
    "DoorLost",
    "Drain",
    "Ending",
    "EngineStats",
    "Floats",
    "Get",
    "Ints",
    "Keep",
    "Launch",
    "Observer",
    "Open",
    "Opened",
    "Reply",
    "Reset",
    "RowErrors",
    "SessionInfo",
    "Sink",
    "StreamEnded",
    "Tensor",
    "TurnReport",
]
