"""Statistics as load generators of the Open Inference Protocol read them."""

from __future__ import annotations

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.engine.ports import InferenceTotals
from stepstream_server.rpc.oip.catalogue import encode_statistics
from support.backend import counter_spec
from support.observer import NOTHING

TOTALS = InferenceTotals(
    steps=230,
    failed_steps=4,
    seconds=1.5,
    queue_seconds=0.25,
    compute_seconds=0.75,
    launches={64: (3, 0.006), 1: (38, 0.0019)},
    last_at=1_700_000_000.1234,
)


def pair(duration: oip_pb2.StatisticDuration) -> tuple[int, int]:
    """Count and nanoseconds."""
    return duration.count, duration.ns


def test_an_inference_is_a_step_and_an_execution_a_launch() -> None:
    """Counts and nanoseconds over all steps; the time of the last one in milliseconds."""
    statistics = encode_statistics(counter_spec(), TOTALS)
    assert (statistics.inference_count, statistics.execution_count) == (230, 41)
    assert statistics.last_inference == 1_700_000_000_123
    stats = statistics.inference_stats
    assert pair(stats.success) == (230, 1_500_000_000)
    assert pair(stats.fail) == (4, 0)
    assert pair(stats.queue) == (230, 250_000_000)
    assert pair(stats.compute_infer) == (230, 750_000_000)


def test_the_version_is_a_plain_number() -> None:
    """perf_analyzer ends itself over anything else."""
    statistics = encode_statistics(counter_spec(), TOTALS)
    assert (statistics.name, statistics.version) == ("counter", "1")


def test_the_parts_of_computing_count_alike() -> None:
    """perf_analyzer divides each by the same count; gathering and scattering are in the launch's time."""
    stats = encode_statistics(counter_spec(), TOTALS).inference_stats
    assert pair(stats.compute_input) == pair(stats.compute_output) == (stats.compute_infer.count, 0)


def test_batches_are_told_by_their_exact_size() -> None:
    """Smallest first: how many launches had so many rows, and how long they took."""
    batches = encode_statistics(counter_spec(), TOTALS).batch_stats
    assert [(each.batch_size, *pair(each.compute_infer)) for each in batches] == [(1, 38, 1_900_000), (64, 3, 6_000_000)]
    assert [(each.compute_input.count, each.compute_output.count) for each in batches] == [(38, 38), (3, 3)]


def test_statistics_begin_at_nothing() -> None:
    """Before the first step."""
    statistics = encode_statistics(counter_spec(), NOTHING)
    assert (statistics.inference_count, statistics.execution_count, statistics.last_inference) == (0, 0, 0)
    assert not statistics.batch_stats
