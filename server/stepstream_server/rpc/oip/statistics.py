"""What a model's turns add up to, in the protocol's words: an inference is a step, an execution is a launch."""

from __future__ import annotations

from stepstream_proto.oip.v2 import oip_pb2
from stepstream_server.engine.ports import InferenceTotals
from stepstream_server.spec import ModelSpec


def encode_statistics(spec: ModelSpec, totals: InferenceTotals) -> oip_pb2.ModelStatistics:
    """Counts and nanoseconds since the start, over all steps; none ever falls. Repeats answered from the cache are not counted.

    A launch gathers states and inputs, computes and scatters, all in its time: `compute_input` and `compute_output` are counted
    as often and take nothing. Load generators expect the three to count alike.
    """
    return oip_pb2.ModelStatistics(
        name=spec.name,
        version=str(spec.version),
        last_inference=round(totals.last_at * 1000),
        inference_count=totals.steps,
        execution_count=sum(count for count, _ in totals.launches.values()),
        inference_stats=oip_pb2.InferStatistics(
            success=_duration(totals.steps, totals.seconds),
            fail=_duration(totals.failed_steps),
            queue=_duration(totals.steps, totals.queue_seconds),
            compute_input=_duration(totals.steps),
            compute_infer=_duration(totals.steps, totals.compute_seconds),
            compute_output=_duration(totals.steps),
        ),
        batch_stats=[_encode_batches(rows, count, seconds) for rows, (count, seconds) in sorted(totals.launches.items())],
    )


def _encode_batches(rows: int, count: int, seconds: float) -> oip_pb2.InferBatchStatistics:
    """Of all launches with so many rows."""
    return oip_pb2.InferBatchStatistics(
        batch_size=rows,
        compute_input=_duration(count),
        compute_infer=_duration(count, seconds),
        compute_output=_duration(count),
    )


def _duration(count: int, seconds: float = 0.0) -> oip_pb2.StatisticDuration:
    return oip_pb2.StatisticDuration(count=count, ns=round(seconds * 1e9))
