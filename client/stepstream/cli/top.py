"""`stepstream top`: what the server is doing, by its metrics."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from http.client import HTTPException
from typing import Annotated

import typer

from stepstream.cli import show
from stepstream.cli.blocking import Worker
from stepstream.cli.faults import Misuse, NoMetrics
from stepstream.cli.metrics import Activity, Scrape, Split, activities, scrape
from stepstream.cli.options import Options

NAMES = ("model", "sessions", "steps/s", "failed/s", "pending", "batch", "queue ms", "compute ms", "total ms")


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
    if not re.fullmatch(r"[^/]+:\d+", metrics):
        raise Misuse(f"--metrics: expected HOST:PORT, got {metrics!r}")
    looks = _looks(f"http://{metrics}/metrics", interval)
    if once or options.json or not sys.stdout.isatty():
        async for look in looks:
            typer.echo(_json(look) if options.json else _text(look))
            if once:
                return
    else:
        await _live(looks)


async def _live(looks: AsyncIterator[Sequence[Activity]]) -> None:
    """On the terminal's other screen, which gives the first one back in the end."""
    from rich.live import Live  # other commands start sooner without it
    from rich.table import Table

    with Live(screen=True, auto_refresh=False) as screen:
        async for look in looks:
            table = Table(*NAMES, title="stepstream top", caption="milliseconds: p50 / p99. Ctrl-C ends.")
            for each in look:
                table.add_row(*_cells(each))
            screen.update(table, refresh=True)


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


def _text(look: Sequence[Activity]) -> str:
    return show.table(NAMES, map(_cells, look))


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
