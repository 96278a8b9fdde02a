"""Row 11: memory over many steps, with sessions coming and going.

Steps of one model, in blocks and at full speed: what a step leaves behind shows. `endurance` is the other half, all features at a
moderate rate for many minutes: what a feature leaves behind shows there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.churn import ChurnPlan, ChurnResult
from benchmarks.drive import generate, plan_for
from benchmarks.process import running, serve_command
from benchmarks.report import Line, line
from benchmarks.timing import Effort
from stepstream_server.bundles import Bundle

# Sessions that nobody closes end, and ends are forgotten, within seconds: half of the run must see as much go as come.
_FLAGS = ("--engine.idle_ttl_seconds", "1", "--engine.tombstone_seconds", "1")
_STREAMS, _SESSIONS, _LENGTH, _BLOCKS = 4, 250, 8, 4  # at once, of each stream, steps per row, blocks in a stream's life
_SAMPLES = 100


def row_11(bundle: Bundle, effort: Effort, tell: Callable[[str], None]) -> list[Line]:
    """Memory at the end against memory at half the steps, both read off the line fitted to the second half."""
    tell(f"row 11: {effort.soak_steps:,} steps")
    with running(serve_command(bundle.path.parent, *_FLAGS)) as server:
        life = plan_for(server, bundle, effort, _STREAMS, _SESSIONS, _LENGTH)
        life = dataclasses.replace(life, in_flight=2, max_blocks=_BLOCKS)
        values = generate("churn", dataclasses.asdict(ChurnPlan(life, effort.soak_steps, _SAMPLES)))
    result = ChurnResult(**values)
    middle, end = second_half(result.at_steps, result.resident)
    beside = {
        "MiB at half": middle / 2**20,
        "MiB at the end": end / 2**20,
        "B per 1,000 steps": (end - middle) / (result.at_steps[-1] / 2) * 1000,
        "sessions": float(result.sessions),
        "forks": float(result.forks),
        "streams": float(result.streams),
        "steps/s": result.at_steps[-1] / result.seconds,
    }
    series = {"steps": [float(each) for each in result.at_steps], "MiB": [each / 2**20 for each in result.resident]}
    case = f"{effort.soak_steps:,} steps: memory at the end against half-way"
    return [dataclasses.replace(line(11, case, [end / middle], "×", 1.02, beside=beside), series=series)]


def second_half(at_steps: Sequence[float], resident: Sequence[float]) -> tuple[float, float]:
    """Values at half of the steps and at the last, of the line with least squares through the samples from half on."""
    steps, values = np.array(at_steps, np.float64), np.array(resident, np.float64)
    later = steps >= steps[-1] / 2
    slope, start = np.polyfit(steps[later] - steps[-1] / 2, values[later], 1)
    return float(start), float(start + slope * steps[-1] / 2)


def plot(memory: Line, path: Path) -> None:
    """Draws the samples of a line of row 11, and what was fitted to them."""
    from matplotlib.figure import Figure  # here alone, and slow to import

    steps, values = memory.series["steps"], memory.series["MiB"]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(np.array(steps) / 1e6, values, color="tab:blue", label="the server's own memory (RssAnon)")
    fitted = second_half(steps, values)
    axes.plot([steps[-1] / 2e6, steps[-1] / 1e6], fitted, "--", color="tab:orange", label="fitted to the second half")
    axes.set(xlabel="million steps", ylabel="MiB", ylim=(0, max(values) * 1.15), xlim=(0, None))
    axes.set_title(f"{memory.beside['sessions']:,.0f} sessions come and go", fontsize="medium", loc="left")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
