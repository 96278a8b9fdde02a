"""Every series that the server has, named once, with its unit, its labels and why its buckets are where they are.

Labels are bounded: models are few, reasons, methods and codes are enumerations. A session's id is never a label.
"""

from __future__ import annotations

from dataclasses import dataclass

MODEL_LABELS = ("model", "version")

# Seconds. A step takes 50 us (one row, H = 128, alone) to some milliseconds (a full batch); the client library's own buckets
# would put all of them into the first. Edges lie where promises do: 2 ms and 20 ms are the engine's chunk budgets, 10 ms is
# a sensor's period at 100 Hz, 20 ms an audio frame, 100 ms what people feel, 1 s about a full queue.
SECONDS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0,
)  # fmt: skip

# Rows. Powers of two up to the default `engine.max_batch`: what a kernel's time depends on.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Series:
    """One metric's name, what it counts, and the names of its labels."""

    name: str
    help: str
    labels: tuple[str, ...] = MODEL_LABELS


BUILD_INFO = Series("stepstream_build_info", "Always 1; the labels say what is running.", ("version", "backend", "device"))
BROKEN_BUNDLES = Series("stepstream_broken_bundles", "Bundles among the models that are broken and not served.", ())
RPC_HANDLED = Series(
    "stepstream_rpc_handled_total",
    "RPCs ended, by gRPC status code; a stream counts once, when it ends.",
    ("service", "method", "code"),
)

WORKERS = Series("stepstream_workers", "Worker processes at work; 0 where the main process speaks gRPC itself.", ())
WORKER_DEATHS = Series("stepstream_worker_deaths_total", "Worker processes that died or hung, and were replaced.", ())
WORKER_CPU_SECONDS = Series("stepstream_worker_cpu_seconds_total", "CPU time of a worker process.", ("worker",))
WORKER_BYTES = Series("stepstream_worker_resident_memory_bytes", "Resident memory of a worker process.", ("worker",))

SESSIONS_OPEN = Series("stepstream_sessions_open", "Sessions open now.")
SESSIONS_OPENED = Series(
    "stepstream_sessions_opened_total", "Sessions that came to be, by how: opened, forked, imported.", (*MODEL_LABELS, "origin")
)
SESSIONS_REFUSED = Series(
    "stepstream_sessions_refused_total", "Sessions that were wanted and could not be had, by why.", (*MODEL_LABELS, "reason")
)
SESSIONS_CLOSED = Series("stepstream_sessions_closed_total", "Sessions ended, by why.", (*MODEL_LABELS, "reason"))
SLOTS = Series(
    "stepstream_slots",
    "Room for sessions: used by one that is open, or free for one more.",
    (*MODEL_LABELS, "state"),
)
STATE_BYTES = Series("stepstream_state_bytes", "Bytes of open sessions' states.")
STREAMS = Series("stepstream_streams", "Streams that hold sessions now.")
PENDING_STEPS = Series("stepstream_pending_steps", "Steps admitted and not yet computed.")
TURNS = Series("stepstream_turns_total", "Rounds of the engine.")

SESSIONS_DURABLE = Series("stepstream_durable_sessions", "Durable sessions in memory now.")
SESSIONS_RESTORED = Series("stepstream_sessions_restored_total", "Sessions restored from the store.")
SESSIONS_LOST = Series(
    "stepstream_sessions_lost_total",
    "Sessions in the store that could not be restored, or from too early, by why.",
    (*MODEL_LABELS, "reason"),
)
REPLAYED_STEPS = Series("stepstream_replayed_steps_total", "Steps of restored sessions that clients had to send again.")
STORE_LAG_SECONDS = Series(
    "stepstream_store_lag_seconds", "Since the oldest step that is not in the store was applied; 0: all are."
)
STORE_RECORDS = Series("stepstream_store_records_total", "Durable sessions written to the store, each time.")
STORE_BYTES = Series("stepstream_store_written_bytes_total", "Bytes written to the store.")
STORE_WRITE_SECONDS = Series("stepstream_store_write_seconds", "A group's write: from its turn in the store to its end.")
STORE_FAILURES = Series("stepstream_store_failures_total", "Tasks that the store could not carry out.")

STEPS = Series("stepstream_steps_total", "Steps applied and answered.")
STEP_FAILURES = Series(
    "stepstream_step_failures_total", "Steps that the engine refused or failed, by why.", (*MODEL_LABELS, "reason")
)
DUPLICATE_STEPS = Series("stepstream_duplicate_steps_total", "Steps answered from the cache, the state untouched.")
BATCHING = Series("stepstream_batching", "Rows of which each launch computes a multiple; 0: one session after the other.")
LAUNCHES = Series("stepstream_launches_total", "Batches computed; steps divided by launches is the mean steps of one.")

BATCH_SIZE = Series("stepstream_batch_size", "Rows of one launch.")
BATCH_COMPUTE_SECONDS = Series("stepstream_batch_compute_seconds", "From a batch's launch to its results.")
STEP_QUEUE_SECONDS = Series("stepstream_step_queue_seconds", "From a step's arrival to the launch that computes it.")
STEP_SECONDS = Series("stepstream_step_seconds", "From a step's arrival to the hand-over of its answer.")

ROLLOUTS_ACTIVE = Series("stepstream_rollouts_active", "Rollouts under way.")
ROLLOUT_SLOTS = Series("stepstream_rollout_slots", "States that paths of rollouts hold, beside those of sessions.")
ROLLOUTS_ENDED = Series(
    "stepstream_rollouts_ended_total", "Rollouts ended, by how: STOP, LENGTH, CANCELLED, FAILED.", (*MODEL_LABELS, "ending")
)
DRAWS = Series("stepstream_rollout_draws_total", "Tokens or values that rollouts have drawn and fed, on all their paths.")
FIRST_DRAW_SECONDS = Series("stepstream_rollout_first_draw_seconds", "From a rollout's arrival to its first token or value.")
BETWEEN_DRAWS_SECONDS = Series(
    "stepstream_rollout_between_draws_seconds", "From a rollout's token or value to the next; not while its reader lets it wait."
)
