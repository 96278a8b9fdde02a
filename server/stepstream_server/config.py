"""Settings: one frozen record per concern, units in names, every default with its reason.

Only this module reads flags, environment (`STEPSTREAM_ENGINE__CAPACITY=...`) and the TOML file, in that precedence; an unknown
key anywhere is an error. Everyone else is handed the record that concerns it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A group of settings: immutable, and refusing keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineSettings(Section):
    """Sessions, queues and turns of one model."""

    capacity: int = Field(
        default=100_000,
        gt=0,
        description="Sessions that may be open at once. 100,000 of H = 128, one layer, take 100 MB of state and as much again.",
    )
    idle_ttl_seconds: float = Field(
        default=3600.0,
        gt=0,
        description="A session without a step for this long is closed. An hour outlasts a sensor's reconnect and a user's lunch.",
    )
    max_lifetime_seconds: float = Field(
        default=0.0,
        ge=0,
        description="A session older than this is closed, busy or not. 0: never, since a sensor may stream for months.",
    )
    tombstone_seconds: float = Field(
        default=600.0,
        ge=0,
        description="How long the reason of a session's end is remembered, so that a late caller is told it.",
    )
    window_steps: int = Field(
        default=1024,
        gt=0,
        description="Unacknowledged steps per session: a prompt of 1,000 tokens in one row, or 10 s of readings at 100 Hz.",
    )
    window_bytes: int = Field(
        default=1 << 20,
        gt=0,
        description="Bytes of unacknowledged outputs per session: a quarter of gRPC's default message limit of 4 MiB.",
    )
    max_pending_steps: int = Field(
        default=1 << 20,
        gt=0,
        description="Steps queued in the engine over all sessions; beyond it steps are refused. About a second of an H = 128 model.",
    )
    max_batch: int = Field(
        default=1024,
        gt=0,
        description="Rows of one launch. Beyond 512 rows the time per row no longer falls; more only adds latency.",
    )
    turn_budget_seconds: float = Field(
        default=0.002,
        gt=0,
        description="Time that chunk steps may take of a turn while single steps wait: what a single step may be held up.",
    )
    alone_budget_seconds: float = Field(
        default=0.020,
        gt=0,
        description="The same while nothing else waits: the longest that a newcomer waits for a chunk to be cut.",
    )
    max_wait_seconds: float = Field(
        default=0.0,
        ge=0,
        description="How long an idle engine waits for more steps before it runs the first. 0: what arrives during a turn is batch enough.",
    )
