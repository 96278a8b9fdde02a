"""The server's one metrics object: a custom collector that reads totals and engine stats when Prometheus asks.

Nothing is kept in prometheus_client's own counters, so a turn costs one call, whatever its number of rows.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from stepstream_server.engine.ports import EngineStats, Observer
from stepstream_server.telemetry import series
from stepstream_server.telemetry.observer import Buckets, Totals, TurnTotals
from stepstream_server.telemetry.series import Series

Labels = tuple[str, ...]
Values = Iterable[tuple[Labels, float]]


def new_registry() -> CollectorRegistry:
    """A registry of the server's own, with the process's memory, CPU time and open files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


def _gauge(a: Series, values: Values) -> Metric:
    family = GaugeMetricFamily(a.name, a.help, labels=a.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _counter(a: Series, values: Values) -> Metric:
    family = CounterMetricFamily(a.name, a.help, labels=a.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _histogram(a: Series, values: Iterable[tuple[Labels, Buckets]]) -> Metric:
    family = HistogramMetricFamily(a.name, a.help, labels=a.labels)
    for labels, (buckets, total) in values:
        family.add_metric(labels, buckets, total)
    return family


def _turn_families(models: list[tuple[Labels, Totals]]) -> Iterator[Metric]:
    closed = [((*model, why.name), count) for model, t in models for why, count in t.closed.items()]
    failures = [((*model, why.name), count) for model, t in models for why, count in t.failures.items()]
    opened = [((*model, how.name), count) for model, t in models for how, count in t.opened.items()]
    refused = [((*model, why.name), count) for model, t in models for why, count in t.refused.items()]
    yield _counter(series.SESSIONS_OPENED, opened)
    yield _counter(series.SESSIONS_REFUSED, refused)
    yield _counter(series.SESSIONS_CLOSED, closed)
    yield _counter(series.STEPS, [(model, t.steps) for model, t in models])
    yield _counter(series.STEP_FAILURES, failures)
    yield _counter(series.DUPLICATE_STEPS, [(model, t.duplicates) for model, t in models])
    yield _counter(series.LAUNCHES, [(model, t.launches) for model, t in models])
    yield _histogram(series.BATCH_SIZE, [(model, t.batch_size) for model, t in models])
    yield _histogram(series.BATCH_COMPUTE_SECONDS, [(model, t.compute_seconds) for model, t in models])
    yield _histogram(series.STEP_QUEUE_SECONDS, [(model, t.queue_seconds) for model, t in models])
    yield _histogram(series.STEP_SECONDS, [(model, t.step_seconds) for model, t in models])
    yield from _rollout_families(models)
    yield from _store_families(models)


def _store_families(models: list[tuple[Labels, Totals]]) -> Iterator[Metric]:
    lost = [((*model, why.name), count) for model, t in models for why, count in t.lost.items()]
    yield _counter(series.STORE_RECORDS, [(model, t.written) for model, t in models])
    yield _counter(series.STORE_BYTES, [(model, t.written_bytes) for model, t in models])
    yield _histogram(series.STORE_WRITE_SECONDS, [(model, t.write_seconds) for model, t in models])
    yield _counter(series.STORE_FAILURES, [(model, t.store_failures) for model, t in models])
    yield _counter(series.SESSIONS_RESTORED, [(model, t.restored) for model, t in models])
    yield _counter(series.REPLAYED_STEPS, [(model, t.replayed) for model, t in models])
    yield _counter(series.SESSIONS_LOST, lost)


def _rollout_families(models: list[tuple[Labels, Totals]]) -> Iterator[Metric]:
    ended = [((*model, how.name), count) for model, t in models for how, count in t.rollouts_ended.items()]
    yield _counter(series.ROLLOUTS_ENDED, ended)
    yield _counter(series.DRAWS, [(model, t.draws) for model, t in models])
    yield _histogram(series.FIRST_DRAW_SECONDS, [(model, t.first_draw_seconds) for model, t in models])
    yield _histogram(series.BETWEEN_DRAWS_SECONDS, [(model, t.between_draws_seconds) for model, t in models])


def _stats_families(models: list[tuple[Labels, EngineStats]]) -> Iterator[Metric]:
    used = [((*model, "used"), s.sessions) for model, s in models]
    free = [((*model, "free"), s.capacity - s.sessions) for model, s in models]
    yield _gauge(series.SESSIONS_OPEN, [(model, s.sessions) for model, s in models])
    yield _gauge(series.SLOTS, used + free)
    yield _gauge(series.SESSIONS_DURABLE, [(model, s.durable_sessions) for model, s in models])
    yield _gauge(series.STORE_LAG_SECONDS, [(model, s.lag_seconds) for model, s in models])
    yield _gauge(series.STATE_BYTES, [(model, s.state_bytes) for model, s in models])
    yield _gauge(series.BATCHING, [(model, s.batching) for model, s in models])
    yield _gauge(series.STREAMS, [(model, s.streams) for model, s in models])
    yield _gauge(series.PENDING_STEPS, [(model, s.pending_steps) for model, s in models])
    yield _gauge(series.ROLLOUTS_ACTIVE, [(model, s.rollouts) for model, s in models])
    yield _gauge(series.ROLLOUT_SLOTS, [(model, s.rollout_slots) for model, s in models])
    yield _counter(series.TURNS, [(model, s.turns) for model, s in models])


class Metrics:
    """Every series of the server, on the registry given. Registering two on one registry is an error (ValueError)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._lock = threading.Lock()
        self._totals: dict[Labels, TurnTotals] = {}
        self._stats: dict[Labels, Callable[[], EngineStats]] = {}
        self._builds: list[Labels] = []
        self._broken_bundles = 0
        self._rpcs: Counter[Labels] = Counter()
        self._ask_workers: Callable[[], object] | None = None
        self._workers = (0, 0)  # alive, died
        self._used: dict[Labels, tuple[float, int]] = {}  # by worker: CPU seconds, resident bytes
        registry.register(self)

    def observer(self, model: str, version: int) -> Observer:
        """The observer for a model's engine; the same one each time."""
        return self._totals_of(model, version)

    def watch(self, model: str, version: int, stats: Callable[[], EngineStats]) -> None:
        """From now on each scrape calls `stats`, on the exporter's thread, for the model's gauges."""
        with self._lock:
            self._stats[(model, str(version))] = stats

    def build_info(self, version: str, backend: str, device: str) -> None:
        """Says what is running: the server's version, `backend.kind` and `backend.device`."""
        with self._lock:
            self._builds = [(version, backend, device)]

    def broken_bundles(self, count: int) -> None:
        """How many bundles could not be read and are not served."""
        self._broken_bundles = count

    def rpc_handled(self, service: str, method: str, code: str, calls: int = 1) -> None:
        """Counts RPCs that ended. Name only services and methods of the contract: labels must be bounded."""
        with self._lock:
            self._rpcs[(service, method, code)] += calls

    def ask_workers(self, ask: Callable[[], object] | None) -> None:
        """From now on each scrape calls this first, on the exporter's thread: it brings in what worker processes have counted."""
        self._ask_workers = ask

    def workers(self, alive: int, died: int) -> None:
        """How many worker processes there are, and how many have died so far."""
        with self._lock:
            self._workers = (alive, died)

    def worker(self, number: int, cpu_seconds: float, resident_bytes: int) -> None:
        """What one of them has used: since it was started, and now."""
        with self._lock:
            self._used[(str(number),)] = (cpu_seconds, resident_bytes)

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client at each scrape, on the scraping thread."""
        if (ask := self._ask_workers) is not None:
            ask()
        with self._lock:
            (alive, died), used = self._workers, list(self._used.items())
            totals, stats = list(self._totals.items()), list(self._stats.items())
            builds, rpcs = [(build, 1.0) for build in self._builds], list(self._rpcs.items())
        yield _gauge(series.BUILD_INFO, builds)
        yield _gauge(series.BROKEN_BUNDLES, [((), self._broken_bundles)])
        yield _counter(series.RPC_HANDLED, rpcs)
        yield _gauge(series.WORKERS, [((), alive)])
        yield _counter(series.WORKER_DEATHS, [((), died)])
        yield _counter(series.WORKER_CPU_SECONDS, [(worker, cpu) for worker, (cpu, _) in used])
        yield _gauge(series.WORKER_BYTES, [(worker, resident) for worker, (_, resident) in used])
        yield from _turn_families([(model, total.read()) for model, total in totals])
        yield from _stats_families([(model, read()) for model, read in stats])

    def _totals_of(self, model: str, version: int) -> TurnTotals:
        with self._lock:
            return self._totals.setdefault((model, str(version)), TurnTotals())

    def describe(self) -> Iterator[Metric]:
        """The same names without values, so that the registry can refuse a second owner of one."""
        return self.collect()
