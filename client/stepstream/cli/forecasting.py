"""`stepstream forecast`: readings on stdin, quantiles of those to come on stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from stepstream import ModelInfo
from stepstream.cli import show
from stepstream.cli.columns import Format, Reader, Row, arrays, names_of, numbered_row
from stepstream.cli.generating import Seed, Temperature, misuse
from stepstream.cli.options import Misuse, Model, ModelVersion, Options, list_of, real
from stepstream.cli.pipes import Worker, read_lines
from stepstream.cli.streaming import in_the_end

BEFORE = 3  # horizons of readings that a plot shows before the forecast


async def forecast(
    options: Options,
    model: Model,
    *,
    horizon: Annotated[int, typer.Option(min=1, max=2**32 - 1, metavar="N", help="Steps to look ahead.")] = 27,
    paths: Annotated[int, typer.Option(min=1, max=2**32 - 1, metavar="N", help="Futures that are drawn. 1: print it.")] = 100,
    levels: Annotated[str, typer.Option(metavar="LEVELS", help="Quantiles over them, ascending.")] = "0.1,0.5,0.9",
    temperature: Temperature = 1.0,
    seed: Seed = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also draw it, with the last readings: .png, .svg, .pdf.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Names of the input's columns in order, where it has none or others.")
    ] = None,
    format: Annotated[Format, typer.Option(help="What the lines are. auto: JSON if the first one begins with { or [.")] = "auto",
    model_version: ModelVersion = None,
) -> None:
    """Forecasts readings.

    Reads readings from stdin as `stream` does, and prints what a model of numbers expects to follow the last one: a line per
    step, with its time in seconds where the model knows that, and a column per quantile over many drawn futures; with --json one
    object a line.

    Examples:
        stepstream forecast ecg --horizon 27 --paths 100 < examples/ecg/held_out.csv
        stepstream forecast ecg --levels 0.05,0.5,0.95 --plot ecg.png < examples/ecg/held_out.csv
    """
    at = _levels(levels)
    drawing = None if plot is None else _drawing()
    async with options.client() as client:
        served = await client.model(model, model_version)
        rows = await _readings(Reader(served, format, list_of(columns)))
        past = arrays(served, rows)
        session = await client.open_session(served.name, version=served.version)
        async with in_the_end(session.close):
            await session.chunk(past, "none")
            with misuse():
                values = await session.forecast(horizon, paths=paths, levels=at, temperature=temperature, seed=seed)
    if paths == 1:
        at, values = [], values[:, np.newaxis]
    if drawing is not None and plot is not None:  # first: whoever reads the lines may leave early
        title = f"{served.name}: {horizon} steps ahead, {paths} future{'' if paths == 1 else 's'}"
        draw(drawing, served, next(iter(past.values())), values, at, title).savefig(plot, dpi=120)
    _print(served, values, at, as_json=options.json)


def _levels(text: str) -> list[float]:
    try:
        return [real(each) for each in list_of(text)]
    except ValueError:
        raise Misuse(f"--levels: expected numbers between commas, got {text!r}") from None


async def _readings(reader: Reader) -> list[Row]:
    rows: list[Row] = []
    number = 0
    with Worker() as reading:
        async for batch in read_lines(reading):
            for line in batch:
                number += 1
                if (row := numbered_row(reader, number, line)) is not None:
                    rows.append(row)
    if not rows:
        raise Misuse("stdin: expected readings to go on from, got none")
    return rows


def _print(model: ModelInfo, values: NDArray[np.float32], levels: Sequence[float], *, as_json: bool) -> None:
    """values: [horizon, levels, *shape]; without levels, of one path."""
    names = [f"{name}_q{level:g}" if levels else name for level in levels or [0] for name in names_of(model.inputs[0])]
    period = model.time_step_seconds
    times = [] if period is None else ["time"]
    if not as_json:
        typer.echo(",".join(["step", *times, *names]))
    for step, row in enumerate(values.reshape(len(values), -1), 1):
        cells = [f"{step}", *(f"{step * (period or 0):.6g}" for _ in times), *map(str, row)]
        if as_json:
            named = zip(["step", *times, *names], map(json.loads, cells), strict=True)
            typer.echo(json.dumps(dict(named)))
        else:
            typer.echo(",".join(cells))


def _drawing() -> Any:
    """The class of matplotlib's figures. Raises Misuse where it is not installed, before any work is done."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise Misuse("--plot: expected matplotlib to be installed: pip install 'stepstream[examples]'") from None
    return Figure


def draw(
    figure_of: Any, model: ModelInfo, past: NDArray[Any], values: NDArray[np.float32], levels: Sequence[float], title: str
) -> Any:
    """The last readings and the fan of quantiles behind them, one panel per number of the input.

    past: [T, *shape]. values: as for `_print`.
    """
    names = names_of(model.inputs[0])
    past = past.reshape(len(past), -1)[-BEFORE * len(values) :]  # [T, numbers]
    fan = np.concatenate([np.tile(past[-1:], (1, values.shape[1], 1)), values.reshape(*values.shape[:2], -1)])
    axis, size = _axis(model.time_step_seconds, len(past) + len(values))
    figure = figure_of(figsize=(9, 1.5 + 2.5 * len(names)), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(len(names), squeeze=False, sharex=True)[:, 0]
    for number, (panel, name) in enumerate(zip(panels, names, strict=True)):
        panel.plot(np.arange(1 - len(past), 1) * size, past[:, number], color="black", linewidth=1, label="readings")
        _draw_fan(panel, np.arange(len(fan)) * size, fan[:, :, number], levels)
        panel.set_ylabel(name)
    panels[-1].set_xlabel(axis)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _axis(period: float | None, steps: int) -> tuple[str, float]:
    """What is told from left to right, in a unit that suits so many steps, and how much of that a step takes."""
    if period is None:
        return "steps from the last reading", 1.0
    unit, size = show.unit_of(period * steps)
    return f"time from the last reading ({'min' if unit == 'm' else unit})", period / size


def _draw_fan(panel: Any, ahead: NDArray[Any], fan: NDArray[np.float32], levels: Sequence[float]) -> None:
    """Bands between quantiles that are as far from either end, and the one in the middle. fan: [T, levels]."""
    middle = fan.shape[1] // 2
    for low in range(middle):
        high = fan.shape[1] - 1 - low
        label = f"{100 * (levels[high] - levels[low]):g} % of futures ({levels[low]:g} to {levels[high]:g})"
        panel.fill_between(ahead, fan[:, low], fan[:, high], color="C0", alpha=0.2 + 0.6 * low / middle, lw=0, label=label)
    if fan.shape[1] % 2:
        label = "one future" if not levels else "median" if levels[middle] == 0.5 else f"quantile {levels[middle]:g}"
        panel.plot(ahead, fan[:, middle], color="C0", label=label)
