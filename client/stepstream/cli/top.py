"""`stepstream top`: what the server is doing, by the difference of two readings of its metrics, told per model."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import textwrap
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPException
from ipaddress import ip_address
from itertools import pairwise
from typing import Annotated, Any
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import typer

from stepstream.cli import show
from stepstream.cli.options import Misuse, NoMetrics, Options
from stepstream.cli.pipes import STDOUT, Worker

NAMES = ("model", "sessions", "steps/s", "failed/s", "pending", "batch", "queue ms", "compute ms", "total ms")
CAPTION = "stepstream top. Milliseconds: p50 / p99. Ctrl-C ends."
GAP = "  "  # between facts side by side


async def top(
    options: Options,
    *,
    metrics: Annotated[
        str, typer.Option("--metrics", metavar="HOST:PORT", help="Where the server's metrics are.")
    ] = "127.0.0.1:8102",
    interval: Annotated[float, typer.Option(min=0.05, metavar="SECONDS", help="Between two looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look for one interval, print that and end.")] = False,
) -> None:
    """Shows live what each model is doing.

    Sessions, steps per second, batches, and where a step's time goes. Batch is the mean number of rows computed together. Times
    are median and 99th percentile of the interval: queue, from a step's arrival to the launch that computes it; compute, of
    that launch; total, from arrival to answer. Ctrl-C ends it. Without a terminal, and with --json, each interval is printed
    below the one before.

    Examples:
        stepstream top --metrics 127.0.0.1:8102
        stepstream top --once --json | jq '.models[].steps_per_second'
    """
    if not re.fullmatch(r"[^/]+:[0-9]+", metrics):
        raise Misuse(f"--metrics: expected HOST:PORT, got {metrics!r}")
    looks = _looks(f"http://{metrics}/metrics", interval)
    width = os.get_terminal_size(STDOUT).columns if os.isatty(STDOUT) else None
    if once or options.json or not os.isatty(STDOUT):
        async for look in looks:
            typer.echo(_json(look) if options.json else laid_out(look, width))
            if once:
                return
    else:
        await _live(looks)


async def _live(looks: AsyncIterator[Sequence[Activity]]) -> None:
    """On the terminal's other screen, which gives the first one back in the end."""
    from rich.live import Live  # other commands start sooner without it
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as screen:
        async for look in looks:
            width, height = screen.console.size
            lines = [*textwrap.wrap(CAPTION, width), "", *laid_out(look, width).splitlines()]
            if len(lines) > height:
                lines[height - 1 :] = [f"{len(lines) - height + 1} more lines"]
            screen.update(Text("\n".join(lines)), refresh=True)


async def _looks(url: str, interval: float) -> AsyncIterator[list[Activity]]:
    """Without end, one per interval. Raises NoMetrics."""
    with Worker() as reading:
        before = await _scrape(reading, url)
        while True:
            await asyncio.sleep(interval)
            now = await _scrape(reading, url)
            yield activities(before, now)
            before = now


async def _scrape(reading: Worker, url: str) -> Scrape:
    try:
        return await reading.call(scrape, url, time.monotonic())
    except (OSError, HTTPException) as error:
        raise NoMetrics(f"no metrics at {url}: {error}") from None
    except ValueError as error:
        raise Misuse(f"--metrics: expected Prometheus' text format at {url}, got {error}") from None


def _json(look: Sequence[Activity]) -> str:
    return json.dumps({"models": [each.record() for each in look]})


def laid_out(look: Sequence[Activity], width: int | None) -> str:
    """A line per model where that fits into so many columns, else a block per model; no number is ever cut. None: a line."""
    table = show.table(NAMES, map(_cells, look))
    if width is None or max(map(len, table.splitlines())) <= width:
        return table
    return "\n\n".join("\n".join(_block(each, width)) for each in look)


def _block(each: Activity, width: int) -> list[str]:
    """The model, and below it as many facts side by side as fit."""
    name, *cells = _cells(each)
    labels = NAMES[1:]
    facts = [f"{label:<{max(map(len, labels))}} {cell}" for label, cell in zip(labels, cells, strict=True)]
    widest = max(map(len, facts))
    across = (width + len(GAP)) // (widest + len(GAP))
    if across == 0:
        rows = facts
    else:
        rows = [GAP.join(fact.ljust(widest) for fact in facts[first : first + across]) for first in range(0, len(facts), across)]
    return [line for row in (name, *rows) for line in textwrap.wrap(row, width)]


def _cells(each: Activity) -> tuple[str, ...]:
    return (
        f"{each.model} {each.version}",
        f"{each.sessions}/{each.slots}",
        f"{each.steps_per_second:,.0f}",
        f"{each.failures_per_second:,.0f}",
        str(each.pending_steps),
        "-" if each.batch_rows.mean is None else f"{each.batch_rows.mean:.1f}",
        *map(_milliseconds, (each.queue_seconds, each.compute_seconds, each.step_seconds)),
    )


def _milliseconds(split: Split) -> str:
    return "-" if split.p50 is None or split.p99 is None else f"{1000 * split.p50:.2f} / {1000 * split.p99:.2f}"


# The metrics ---------------------------------------------------------------------------------------------------------

TIMEOUT_SECONDS = 10.0  # of a server that is there and does not answer
Key = tuple[str, str]
"""Model and version."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations since the server started, or between two scrapes."""

    counts: Mapping[float, float]  # upper bound of a bucket -> observations up to there
    total: float  # sum of all observations

    def since(self, earlier: Histogram) -> Histogram:
        """What has been observed in between."""
        counts = {edge: count - earlier.counts.get(edge, 0.0) for edge, count in self.counts.items()}
        return Histogram(counts, self.total - earlier.total)

    @property
    def count(self) -> float:
        """Observations."""
        return max(self.counts.values(), default=0.0)

    @property
    def mean(self) -> float | None:
        """None without an observation."""
        return self.total / self.count if self.count else None

    def quantile(self, level: float) -> float | None:
        """Estimated as Prometheus' histogram_quantile does: observations lie evenly within a bucket. None without any."""
        rank = level * self.count
        buckets = pairwise([(0.0, 0.0), *sorted(self.counts.items())])
        for (low, below), (high, upto) in buckets:
            if upto >= rank and upto > below:
                return low if math.isinf(high) else low + (high - low) * (rank - below) / (upto - below)
        return None


_EMPTY = Histogram({}, 0.0)


@dataclass(frozen=True, slots=True)
class Scrape:
    """All series that have a model, by (name, model, version): numbers are summed over their other labels."""

    seconds: float  # when, on a monotonic clock
    numbers: Mapping[tuple[str, Key], float]
    histograms: Mapping[tuple[str, Key], Histogram]

    @property
    def models(self) -> list[Key]:
        """Every model and version that it names."""
        return sorted({key for _, key in self.numbers})

    def number(self, name: str, key: Key) -> float:
        """0 for a series that does not exist yet."""
        return self.numbers.get((name, key), 0.0)

    def histogram(self, name: str, key: Key) -> Histogram:
        """Empty for a series that does not exist yet."""
        return self.histograms.get((name, key), _EMPTY)


@dataclass(frozen=True, slots=True)
class Split:
    """Where time went: seconds, or rows of a batch. None where nothing happened."""

    mean: float | None
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Activity:
    """A model between two scrapes."""

    model: str
    version: str
    sessions: int
    slots: int
    streams: int
    pending_steps: int
    steps_per_second: float
    failures_per_second: float
    batch_rows: Split
    queue_seconds: Split
    compute_seconds: Split
    step_seconds: Split

    def record(self) -> dict[str, Any]:
        """As plain values, by name."""
        return asdict(self)


def scrape(url: str, seconds: float) -> Scrape:
    """Reads it. Raises OSError if nobody answers, ValueError for what is no metrics page."""
    # What listens on this machine is not looked for by a proxy, which would look on its own.
    opener = build_opener(ProxyHandler({})) if _is_loopback(urlsplit(url).hostname or "") else build_opener()
    with opener.open(url, timeout=TIMEOUT_SECONDS) as response:
        return parsed(response.read().decode(), seconds)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parsed(text: str, seconds: float) -> Scrape:
    """Prometheus' text format."""
    from prometheus_client.parser import text_string_to_metric_families  # other commands start sooner without it

    numbers: dict[tuple[str, Key], float] = {}
    buckets: dict[tuple[str, Key], dict[float, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "model" not in sample.labels:
                continue
            key = sample.labels["model"], sample.labels.get("version", "")
            if "le" in sample.labels:
                buckets.setdefault((family.name, key), {})[float(sample.labels["le"])] = sample.value
            else:
                numbers[sample.name, key] = numbers.get((sample.name, key), 0.0) + sample.value
    histograms = {
        (name, key): Histogram(counts, numbers.get((f"{name}_sum", key), 0.0)) for (name, key), counts in buckets.items()
    }
    return Scrape(seconds, numbers, histograms)


def activities(before: Scrape, now: Scrape) -> list[Activity]:
    """Every model's activity between the two."""
    return [_activity(before, now, key) for key in now.models]


def _activity(before: Scrape, now: Scrape, key: Key) -> Activity:
    elapsed = now.seconds - before.seconds

    def rate(name: str) -> float:
        return (now.number(name, key) - before.number(name, key)) / elapsed

    def split(name: str) -> Split:
        between = now.histogram(name, key).since(before.histogram(name, key))
        return Split(between.mean, between.quantile(0.5), between.quantile(0.99))

    return Activity(
        model=key[0],
        version=key[1],
        sessions=int(now.number("stepstream_sessions_open", key)),
        slots=int(now.number("stepstream_slots", key)),
        streams=int(now.number("stepstream_streams", key)),
        pending_steps=int(now.number("stepstream_pending_steps", key)),
        steps_per_second=rate("stepstream_steps_total"),
        failures_per_second=rate("stepstream_step_failures_total"),
        batch_rows=split("stepstream_batch_size"),
        queue_seconds=split("stepstream_step_queue_seconds"),
        compute_seconds=split("stepstream_batch_compute_seconds"),
        step_seconds=split("stepstream_step_seconds"),
    )
