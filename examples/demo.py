"""A heartbeat monitor and models of text and speech at a StepStream server: streams an electrocardiogram that its model has never
seen.

Starts the server, sends the readings one by one, and shows each beside what the model expected 0.1 s before. Then it steps many
sessions at once, asks the server's metrics where the time went, and draws what a heart might do next as a fan of 100 paths. A
model of code goes on with a function, and one of words with a story that it was told; sentences are scored word by word, dates
translated, and spoken digits heard. In the end the server is stopped.

A demonstration of streaming prediction, not a medical device.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import math
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path

import numpy as np
from listening import hear
from monitor import fan, report
from monitor.forecast import Forecast, Millivolts
from monitor.latency import scrape
from monitor.plot import picture, terminal
from monitor.server import ServerFailed, running_server
from reading import score, translate
from rich.console import Console
from rich.live import Live
from writing import complete, remember

from stepstream import Client, StepStreamError

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "models"
HELD_OUT = ROOT / "examples" / "ecg" / "held_out.csv"
MODEL = "ecg"
SHOWN = "ahead_9"  # the output that is plotted: 0.1 s ahead, early enough to be surprised by a beat

RATE = 90  # readings per second
WINDOW = 6 * RATE  # readings on the terminal at once
FRAME_SECONDS = 0.1  # from one frame to the next; drawing takes a few hundredths
SESSIONS, TICKS = 200, 200  # of the part with many sessions


def read_readings(seconds: float) -> Millivolts:
    """The first held-out readings [n], in mV."""
    with HELD_OUT.open(newline="") as file:
        readings = np.array([float(row["mv"]) for row in csv.DictReader(file)])
    return readings[: round(min(seconds * RATE, len(readings)))]


def new_forecasts(readings: Millivolts) -> dict[str, Forecast]:
    """One per output; the bundle's manifest says which quantiles of which reading it predicts."""
    manifest = json.loads((MODELS / MODEL / "model.json").read_text())
    ahead = manifest["extra"]["steps_ahead"]
    return {head["name"]: Forecast(readings, RATE, head["levels"], ahead[head["name"]]) for head in manifest["heads"]}


async def paced(readings: Millivolts, speed: float) -> AsyncIterator[tuple[int, float]]:
    """Each reading with its number, as a sensor would send it, `speed` times as fast as in life."""
    clock = asyncio.get_running_loop().time
    began = clock()
    for step, reading in enumerate(readings):
        await asyncio.sleep(began + step / (RATE * speed) - clock())
        yield step, float(reading)


async def stream(
    client: Client, readings: Millivolts, speed: float, forecasts: dict[str, Forecast], show: Callable[[int], None]
) -> list[float]:
    """One session, one step per reading. Fills the forecasts; returns the seconds that each answer took."""
    seconds = []
    async with client.open_session(MODEL) as session:
        async for step, reading in paced(readings, speed):
            sent = time.perf_counter()
            outputs = await session.step([reading])
            seconds.append(time.perf_counter() - sent)
            for name, quantiles in outputs.items():
                forecasts[name].record(step, quantiles)
            show(step + 1)
    return seconds


async def step_many(client: Client, readings: Millivolts) -> float:
    """Many sessions, each somewhere else in the readings, stepped together: one message per tick. Returns the seconds taken."""
    ticks = np.stack([np.resize(np.roll(readings, -RATE * session), TICKS) for session in range(SESSIONS)])
    async with client.open_sessions(MODEL, SESSIONS) as group:
        began = time.perf_counter()
        for tick in range(TICKS):
            await group.step(ticks[:, tick, np.newaxis])
        return time.perf_counter() - began


async def forecast(client: Client, readings: Millivolts, console: Console, path: Path) -> None:
    """Fans of paths at some moments of the recording, as far as it goes, beside what came."""
    fans = {second: await fan.fan(client, MODEL, readings[: round(second * RATE)]) for second in fan.FANS}
    fan.picture(fans, readings, RATE, path)
    for second, quantiles in fans.items():
        now = round(second * RATE)
        within = fan.inside(quantiles, readings[now : now + fan.HORIZON])
        console.print(
            f"{fan.PATHS} paths from {second} s on: {within} of the next {fan.HORIZON} readings lie within their 80 % band."
        )
    console.print(f"Picture: {path}")


def live_plot(live: Live, forecast: Forecast) -> Callable[[int], None]:
    """Shows the newest readings, whenever it is time for another frame."""
    due = 0.0

    def show(count: int) -> None:
        nonlocal due
        if time.monotonic() >= due:
            live.update(terminal(forecast, max(0, count - WINDOW), count, live.console.width), refresh=True)
            due = time.monotonic() + FRAME_SECONDS

    return show


async def watch(client: Client, readings: Millivolts, speed: float, console: Console) -> tuple[dict[str, Forecast], list[float]]:
    """Streams the readings, with a live plot on a terminal and the last seconds' plot in any case."""
    forecasts = new_forecasts(readings)
    shown, count = forecasts[SHOWN], len(readings)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        show = live_plot(live, shown) if console.is_terminal else lambda _: None
        seconds = await stream(client, readings, speed, forecasts, show)
    console.print(terminal(shown, max(0, count - WINDOW), count, console.width))
    return forecasts, seconds


async def run(options: argparse.Namespace, console: Console) -> int:
    """The whole demonstration. Returns the exit code."""
    readings = read_readings(options.seconds)
    console.print("A demonstration of streaming prediction, not a medical device.\n")
    async with running_server(MODELS) as server, Client(server.address) as client:
        console.print(f"Server at {server.address}, metrics at {server.metrics}")
        forecasts, seconds = await watch(client, readings, options.speed, console)
        one = await asyncio.to_thread(scrape, server.metrics, MODEL)
        picture(forecasts[SHOWN], options.png)
        many_seconds = await step_many(client, readings)
        many = await asyncio.to_thread(scrape, server.metrics, MODEL)
        report.surprises(console, forecasts[SHOWN])
        report.errors(console, forecasts)
        report.latencies(console, one, seconds)
        report.batching(console, SESSIONS, SESSIONS * TICKS, many_seconds, one, many)
        console.print(f"Picture: {options.png}\n")
        await forecast(client, read_readings(math.inf), console, options.png.with_stem(f"{options.png.stem}_fan"))
        await complete(client, console)
        await remember(client, console)
        await score(client, console)
        await translate(client, console)
        await hear(client, console)
    console.print(f"Server stopped with exit code {server.exit_code}")
    return int(server.exit_code != 0)


async def stoppable(work: Coroutine[None, None, int]) -> int:
    """Lets SIGTERM stop the work as Ctrl-C does, so that no server is left behind."""
    task = asyncio.create_task(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def conclude(work: Coroutine[None, None, int], console: Console) -> int:
    """Does the work, and says how it ended unless it ended well. Returns the exit code."""
    try:
        return asyncio.run(stoppable(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Stopped.")
        return 130
    except (ServerFailed, StepStreamError, OSError) as error:
        Console(stderr=True).print(
            "\n".join([f"The demo failed: {error}", *getattr(error, "__notes__", [])]), markup=False, soft_wrap=True
        )
        return 1


def at_least_one(text: str) -> float:
    """An argument's value."""
    value = float(text)
    if not value >= 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")
    return value


def main() -> int:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=at_least_one, default=4.0, help="times as fast as in life (default: %(default)s)")
    parser.add_argument("--seconds", type=at_least_one, default=60.0, help="of the readings to stream (default: all %(default)s)")
    parser.add_argument("--png", type=Path, default=Path("build/demo.png"), help="where to draw them (default: %(default)s)")
    options, console = parser.parse_args(), Console()
    return conclude(run(options, console), console)


if __name__ == "__main__":
    sys.exit(main())
