"""Every series: its name, its labels, and the values that turns and engine stats give it."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from stepstream_server.engine.ports import Ending, EngineStats, InferenceTotals, Launch, Origin, RolloutEnding, TurnReport
from stepstream_server.errors import Reason
from stepstream_server.telemetry import Metrics, new_registry
from stepstream_server.telemetry.observer import TurnTotals
from support.clock import FakeClock

ECG = {"model": "ecg", "version": "2"}
STATS = EngineStats(
    sessions=3,
    capacity=10,
    streams=2,
    pending_steps=7,
    state_bytes=3072,
    turns=11,
    steps=40,
    rollouts=2,
    rollout_slots=4,
    batching=0,
    durable_sessions=2,
    lag_seconds=0.25,
)

NAMES_AND_LABELS = {
    "stepstream_build_info": {"version", "backend", "device"},
    "stepstream_broken_bundles": set(),
    "stepstream_rpc_handled_total": {"service", "method", "code"},
    "stepstream_workers": set(),
    "stepstream_worker_deaths_total": set(),
    "stepstream_worker_cpu_seconds_total": {"worker"},
    "stepstream_worker_resident_memory_bytes": {"worker"},
    "stepstream_sessions_open": {"model", "version"},
    "stepstream_sessions_opened_total": {"model", "version", "origin"},
    "stepstream_sessions_refused_total": {"model", "version", "reason"},
    "stepstream_sessions_closed_total": {"model", "version", "reason"},
    "stepstream_slots": {"model", "version", "state"},
    "stepstream_durable_sessions": {"model", "version"},
    "stepstream_sessions_restored_total": {"model", "version"},
    "stepstream_sessions_lost_total": {"model", "version", "reason"},
    "stepstream_replayed_steps_total": {"model", "version"},
    "stepstream_store_lag_seconds": {"model", "version"},
    "stepstream_store_records_total": {"model", "version"},
    "stepstream_store_written_bytes_total": {"model", "version"},
    "stepstream_store_write_seconds": {"model", "version"},
    "stepstream_store_failures_total": {"model", "version"},
    "stepstream_state_bytes": {"model", "version"},
    "stepstream_streams": {"model", "version"},
    "stepstream_batching": {"model", "version"},
    "stepstream_pending_steps": {"model", "version"},
    "stepstream_turns_total": {"model", "version"},
    "stepstream_steps_total": {"model", "version"},
    "stepstream_step_failures_total": {"model", "version", "reason"},
    "stepstream_duplicate_steps_total": {"model", "version"},
    "stepstream_launches_total": {"model", "version"},
    "stepstream_batch_size": {"model", "version"},
    "stepstream_batch_compute_seconds": {"model", "version"},
    "stepstream_step_queue_seconds": {"model", "version"},
    "stepstream_step_seconds": {"model", "version"},
    "stepstream_rollouts_active": {"model", "version"},
    "stepstream_rollout_slots": {"model", "version"},
    "stepstream_rollouts_ended_total": {"model", "version", "ending"},
    "stepstream_rollout_draws_total": {"model", "version"},
    "stepstream_rollout_first_draw_seconds": {"model", "version"},
    "stepstream_rollout_between_draws_seconds": {"model", "version"},
}
HISTOGRAMS = (
    "batch_size", "batch_compute_seconds", "step_queue_seconds", "step_seconds", "rollout_first_draw_seconds",
    "rollout_between_draws_seconds", "store_write_seconds",
)  # fmt: skip


def turn() -> TurnReport:
    """Two launches (three single steps, a chunk of 20), two sessions opened, three refused, one expired, four steps refused.

    Two writes to the store, of five records in all; three sessions restored, with seven steps to be sent again, and one lost.
    """
    return TurnReport(
        launches=[Launch(batch=3, length=1, seconds=0.0003), Launch(batch=1, length=20, seconds=0.0008)],
        steps=np.array([1, 1, 1, 20]),
        queue_seconds=np.array([0.0001, 0.0002, 0.0003, 0.03]),
        step_seconds=np.array([0.0005, 0.0006, 0.0007, 0.04]),
        duplicates=5,
        failures={Reason.WINDOW_FULL: 4},
        opened={Origin.OPENED: 2},
        refused={Reason.SESSION_CAPACITY: 3},
        closed={Ending.EXPIRED: 1},
        draws=9,
        first_draw_seconds=[0.004],
        between_draws_seconds=[np.array([0.001, 0.001])],
        rollouts_ended={RolloutEnding.STOP: 1},
        written=5,
        written_bytes=640,
        write_seconds=[0.002, 0.003],
        store_failures=1,
        restored=3,
        replayed=7,
        lost={Reason.MODEL_MISMATCH: 1},
    )


@pytest.fixture
def registry() -> CollectorRegistry:
    """A fresh one."""
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    """One model that has taken one turn, one RPC, and one of two workers that has counted."""
    metrics = Metrics(registry)
    metrics.build_info("0.1.0", "onnx", "cpu")
    metrics.rpc_handled("stepstream.v1.InferenceService", "Step", "OK")
    metrics.workers(2, 3)
    metrics.worker(1, 0.5, 4096)
    metrics.watch("ecg", 2, lambda: STATS)
    metrics.observer("ecg", 2).turn(turn())
    return metrics


@pytest.mark.usefixtures("metrics")
def test_names_and_labels_are_pinned(registry: CollectorRegistry) -> None:
    """Dashboards and alerts lean on names and labels: none is added, renamed or dropped unnoticed."""
    found: dict[str, set[str]] = {}
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = {label for sample in family.samples for label in sample.labels if label != "le"}
    assert found == NAMES_AND_LABELS


@pytest.mark.usefixtures("metrics")
@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("stepstream_steps_total", {}, 23),
        ("stepstream_launches_total", {}, 2),
        ("stepstream_duplicate_steps_total", {}, 5),
        ("stepstream_step_failures_total", {"reason": "WINDOW_FULL"}, 4),
        ("stepstream_step_failures_total", {"reason": "NON_FINITE_STATE"}, 0),
        ("stepstream_sessions_opened_total", {"origin": "OPENED"}, 2),
        ("stepstream_sessions_opened_total", {"origin": "FORKED"}, 0),
        ("stepstream_sessions_refused_total", {"reason": "SESSION_CAPACITY"}, 3),
        ("stepstream_sessions_closed_total", {"reason": "EXPIRED"}, 1),
        ("stepstream_sessions_closed_total", {"reason": "CLOSED"}, 0),
        ("stepstream_sessions_closed_total", {"reason": "REPLACED"}, 0),
        ("stepstream_batch_size_sum", {}, 4),
        ("stepstream_batch_size_bucket", {"le": "1.0"}, 1),
        ("stepstream_batch_size_bucket", {"le": "4.0"}, 2),
        ("stepstream_batch_compute_seconds_sum", {}, 0.0011),
        ("stepstream_step_queue_seconds_bucket", {"le": "0.0001"}, 1),
        ("stepstream_step_queue_seconds_bucket", {"le": "0.02"}, 3),
        ("stepstream_step_queue_seconds_sum", {}, 0.0006 + 20 * 0.03),
        ("stepstream_step_seconds_bucket", {"le": "0.02"}, 3),
        ("stepstream_step_seconds_bucket", {"le": "0.05"}, 23),
        ("stepstream_step_seconds_count", {}, 23),
        ("stepstream_sessions_open", {}, 3),
        ("stepstream_slots", {"state": "used"}, 3),
        ("stepstream_slots", {"state": "free"}, 7),
        ("stepstream_streams", {}, 2),
        ("stepstream_pending_steps", {}, 7),
        ("stepstream_state_bytes", {}, 3072),
        ("stepstream_batching", {}, 0),
        ("stepstream_turns_total", {}, 11),
        ("stepstream_rollouts_active", {}, 2),
        ("stepstream_rollout_slots", {}, 4),
        ("stepstream_rollouts_ended_total", {"ending": "STOP"}, 1),
        ("stepstream_rollouts_ended_total", {"ending": "CANCELLED"}, 0),
        ("stepstream_rollout_draws_total", {}, 9),
        ("stepstream_rollout_first_draw_seconds_bucket", {"le": "0.004"}, 1),
        ("stepstream_rollout_between_draws_seconds_count", {}, 2),
        ("stepstream_durable_sessions", {}, 2),
        ("stepstream_store_lag_seconds", {}, 0.25),
        ("stepstream_store_records_total", {}, 5),
        ("stepstream_store_written_bytes_total", {}, 640),
        ("stepstream_store_write_seconds_count", {}, 2),
        ("stepstream_store_write_seconds_sum", {}, 0.005),
        ("stepstream_store_failures_total", {}, 1),
        ("stepstream_sessions_restored_total", {}, 3),
        ("stepstream_replayed_steps_total", {}, 7),
        ("stepstream_sessions_lost_total", {"reason": "MODEL_MISMATCH"}, 1),
        ("stepstream_sessions_lost_total", {"reason": "SESSION_LOST"}, 0),
    ],
)
def test_a_turn_and_the_stats_show(registry: CollectorRegistry, name: str, labels: dict[str, str], expected: float) -> None:
    """What one turn reported and what the engine says of itself are the values of the series."""
    assert registry.get_sample_value(name, {**ECG, **labels}) == pytest.approx(expected)


def test_workers_are_asked_before_a_page_is_made(metrics: Metrics, registry: CollectorRegistry) -> None:
    """What they have counted is on the page that asked for it; until they have been asked, what is known of them."""
    assert registry.get_sample_value("stepstream_workers", {}) == 2
    assert registry.get_sample_value("stepstream_worker_deaths_total", {}) == 3
    assert registry.get_sample_value("stepstream_worker_cpu_seconds_total", {"worker": "1"}) == 0.5
    assert registry.get_sample_value("stepstream_worker_resident_memory_bytes", {"worker": "1"}) == 4096
    step = {"service": "stepstream.v1.InferenceService", "method": "Step", "code": "OK"}
    metrics.ask_workers(lambda: metrics.rpc_handled(step["service"], step["method"], step["code"], 10))
    assert registry.get_sample_value("stepstream_rpc_handled_total", step) == 11
    metrics.ask_workers(None)
    assert registry.get_sample_value("stepstream_rpc_handled_total", step) == 11


@pytest.mark.usefixtures("metrics")
def test_what_runs_is_said(registry: CollectorRegistry) -> None:
    """Build info is 1 under the labels given; an RPC counts under its service, method and code."""
    build = {"version": "0.1.0", "backend": "onnx", "device": "cpu"}
    rpc = {"service": "stepstream.v1.InferenceService", "method": "Step", "code": "OK"}
    assert registry.get_sample_value("stepstream_build_info", build) == 1
    assert registry.get_sample_value("stepstream_rpc_handled_total", rpc) == 1


def test_turns_add_up(registry: CollectorRegistry, metrics: Metrics) -> None:
    """A model's observer is one and the same, and counters only grow."""
    observer = metrics.observer("ecg", 2)
    assert observer is metrics.observer("ecg", 2)
    for _ in range(3):
        observer.turn(turn())
    assert registry.get_sample_value("stepstream_steps_total", ECG) == 4 * 23
    assert registry.get_sample_value("stepstream_step_failures_total", {**ECG, "reason": "WINDOW_FULL"}) == 4 * 4


def test_a_turn_that_answered_nothing_changes_no_histogram(registry: CollectorRegistry, metrics: Metrics) -> None:
    """A turn may only refuse or only close."""
    metrics.observer("ecg", 2).turn(TurnReport(closed={Ending.CLOSED: 1}))
    assert registry.get_sample_value("stepstream_step_seconds_count", ECG) == 23
    assert registry.get_sample_value("stepstream_sessions_closed_total", {**ECG, "reason": "CLOSED"}) == 1


def test_models_are_kept_apart(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Another version's turns count under its own labels."""
    metrics.observer("ecg", 3).turn(turn())
    metrics.observer("ecg", 3).turn(turn())
    assert registry.get_sample_value("stepstream_steps_total", ECG) == 23
    assert registry.get_sample_value("stepstream_steps_total", {"model": "ecg", "version": "3"}) == 46


@pytest.mark.parametrize("name", HISTOGRAMS)
@pytest.mark.usefixtures("metrics")
def test_buckets_are_cumulative(registry: CollectorRegistry, name: str) -> None:
    """Counts never fall from edge to edge, and +Inf is the count."""
    (family,) = [each for each in registry.collect() if each.name == f"stepstream_{name}"]
    buckets = [sample for sample in family.samples if sample.name.endswith("_bucket")]
    counts = [sample.value for sample in buckets]
    edges = [float(sample.labels["le"]) for sample in buckets]
    assert counts == sorted(counts)
    assert edges == sorted(set(edges))
    assert edges[-1] == float("inf")
    assert counts[-1] == registry.get_sample_value(f"stepstream_{name}_count", ECG)


@pytest.mark.usefixtures("metrics")
def test_one_registry_takes_one_metrics(registry: CollectorRegistry) -> None:
    """A second owner of the same names is refused instead of exposing each twice."""
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Metrics(registry)


def test_the_servers_registry_knows_the_process() -> None:
    """Memory and CPU time of the process are exposed too."""
    assert new_registry().get_sample_value("process_resident_memory_bytes")


def test_turns_add_up_to_what_inference_servers_count(metrics: Metrics) -> None:
    """By step: a row's times count for each of its steps, and a launch's time for each step that it computed."""
    metrics.observer("ecg", 2).turn(turn())
    metrics.observer("ecg", 3).turn(TurnReport(failures={Reason.QUEUE_FULL: 1}))
    totals = metrics.observer("ecg", 2).totals()
    assert (totals.steps, totals.failed_steps) == (46, 8)
    assert totals.queue_seconds == pytest.approx(2 * (0.0006 + 20 * 0.03))
    assert totals.seconds == pytest.approx(2 * (0.0018 + 20 * 0.04))
    assert totals.compute_seconds == pytest.approx(2 * (3 * 0.0003 + 20 * 0.0008))
    assert {rows: count for rows, (count, _) in totals.launches.items()} == {3: 2, 1: 2}
    assert {rows: seconds for rows, (_, seconds) in totals.launches.items()} == pytest.approx({3: 0.0006, 1: 0.0016})


def test_the_last_inference_is_when_a_step_was_answered() -> None:
    """On the clock on the wall; a turn that answers nothing does not move it."""
    now = FakeClock(1_700_000_000.0)
    totals = TurnTotals(now)
    totals.turn(turn())
    now.advance(5.0)
    totals.turn(TurnReport(failures={Reason.QUEUE_FULL: 1}))
    assert totals.totals().last_at == 1_700_000_000.0


def test_a_model_without_turns_adds_up_to_nothing(metrics: Metrics) -> None:
    """Statistics may be asked for before the first step."""
    assert metrics.observer("new", 1).totals() == InferenceTotals(0, 0, 0.0, 0.0, 0.0, {}, 0.0)
