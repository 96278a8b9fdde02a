"""What the demo tells in the end: surprises, errors, latencies, batching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from monitor.forecast import Forecast
from monitor.latency import BATCH, COMPUTE, QUEUE, STEP, Histogram
from rich.console import Console
from rich.table import Table

Scrape = Mapping[str, Histogram]


def surprises(console: Console, forecast: Forecast) -> None:
    """Where the readings left the band far and long enough to be worth a look."""
    begins = forecast.surprises()
    outside = int((forecast.excess > 0).sum())
    console.print(f"{outside} of {len(forecast.readings)} readings came outside the 80 % band.")
    when = f", at {', '.join(f'{each:.1f}' for each in begins)} s" if begins else ""
    console.print(f"{len(begins)} surprises (ectopic beats, most of the time){when}.\n")


def errors(console: Console, forecasts: Mapping[str, Forecast]) -> None:
    """Each output beside the plainest prediction there is: that nothing changes."""
    table = Table("predicted", "error", "of persistence", "band covers", title="Mean absolute error, mV")
    for name, forecast in forecasts.items():
        score = forecast.score()
        table.add_row(
            f"{name} ({1000 * forecast.ahead / forecast.rate:.0f} ms)",
            f"{score.error:.3f}",
            f"{score.persistence:.3f}",
            f"{score.coverage:.0%}",
        )
    console.print(table)


def latencies(console: Console, scraped: Scrape, seconds: Sequence[float]) -> None:
    """Where the time of a single step went: in the server, by its metrics, and as the caller saw it."""
    table = Table("", "mean", "p50", "p99", title="One session, step by step: milliseconds")
    for what, name in (("queue", QUEUE), ("compute", COMPUTE), ("arrival to answer", STEP)):
        histogram = scraped[name]
        table.add_row(f"server: {what}", *map(_ms, (histogram.mean, histogram.quantile(0.5), histogram.quantile(0.99))))
    table.add_row("client: call to answer", *map(_ms, (np.mean(seconds), *np.quantile(seconds, (0.5, 0.99)))))
    console.print(table)


def batching(console: Console, sessions: int, steps: int, seconds: float, before: Scrape, after: Scrape) -> None:
    """What many sessions cost together, between two scrapes."""
    batch, compute = after[BATCH] - before[BATCH], after[COMPUTE] - before[COMPUTE]
    console.print(
        f"{sessions} sessions stepped together: {steps:,} steps in {seconds:.2f} s, {steps / seconds:,.0f} per second; "
        f"mean batch {batch.mean:.0f} rows, computed in {_ms(compute.mean)} ms.\n"
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f}"
