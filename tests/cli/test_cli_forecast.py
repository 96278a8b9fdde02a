"""`stepstream forecast`: readings in, quantiles of those to come out, against a real server."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from stepstream import Client, ModelInfo, TensorInfo
from stepstream.cli.forecasting import draw
from stepstream_server.bundles import write
from stepstream_server.spec import HeadSpec
from support.command import stepstream
from support.models import random_model

HELD_OUT = Path(__file__).parents[2] / "examples" / "ecg" / "held_out.csv"
READINGS = "\n".join(HELD_OUT.read_text().splitlines()[:300])
VALUES = np.array(READINGS.split()[1:], np.float32)


@pytest.fixture(scope="module")
def models(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Beside those of all tests `drift`: x[2] -> y[2], the next x."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(models, folder, dirs_exist_ok=True)
    write(folder / "drift", *random_model("gru", inputs=2, heads=[HeadSpec("y", "regression", 2, predicts="x")], name="drift"))
    return folder


async def test_a_forecast_is_that_of_the_client_to_the_bit(server: str, client: Client) -> None:
    """However many readings come before; the session is closed again, and time runs from the last reading on."""
    flags = ("--horizon", "5", "--paths", "20", "--seed", "3", "--levels", "0.05,0.5,0.95", "--temperature", "0.5")
    done = await stepstream(server, "forecast", "ecg", *flags, stdin=READINGS)
    assert done.code == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(rows[0]) == ["step", "time", "mv_q0.05", "mv_q0.5", "mv_q0.95"]
    assert [(row["step"], row["time"]) for row in rows[:2]] == [("1", "0.0111111"), ("2", "0.0222222")]
    printed = np.array([list(row.values())[2:] for row in rows], np.float32)
    assert [info.id async for info in client.list_sessions()] == []
    async with client.open_session("ecg") as session:
        expected = await session.forecast(5, paths=20, levels=[0.05, 0.5, 0.95], temperature=0.5, seed=3, prompt=VALUES)
    assert np.array_equal(printed, expected[:, :, 0])


async def test_json_lines_hold_the_same_numbers(server: str) -> None:
    """An object a line."""
    flags = ("--horizon", "3", "--paths", "20", "--seed", "3")
    table = await stepstream(server, "forecast", "ecg", *flags, stdin=READINGS)
    lines = await stepstream(server, "forecast", "ecg", *flags, "--json", stdin=READINGS)
    rows = [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(io.StringIO(table.stdout))]
    assert [json.loads(line) for line in lines.stdout.splitlines()] == rows


async def test_a_single_path_is_printed_itself(server: str) -> None:
    """At temperature 0 it is that of medians, whatever the seed."""
    flags = ("--horizon", "3", "--paths", "1", "--temperature", "0")
    done = await stepstream(server, "forecast", "ecg", *flags, stdin=READINGS)
    assert done.stdout.startswith("step,time,mv\n1,")
    assert done.stdout == (await stepstream(server, "forecast", "ecg", *flags, "--seed", "5", stdin=READINGS)).stdout


async def test_an_input_of_several_numbers_has_columns_for_each(server: str) -> None:
    """As `stream` names them; a model without a time step has no times."""
    done = await stepstream(server, "forecast", "drift", "--horizon", "2", "--paths", "1", "--temperature", "0", stdin="1,2\n")
    assert done.code == 0, done.stderr
    assert done.stdout.splitlines()[0] == "step,x[0],x[1]"


@pytest.mark.parametrize("paths", ["1", "50"])
async def test_a_forecast_is_drawn(server: str, tmp_path: Path, paths: str) -> None:
    """As a picture, beside the table."""
    plot = tmp_path / "fan.png"
    done = await stepstream(server, "forecast", "ecg", "--paths", paths, "--plot", str(plot), stdin=READINGS)
    assert (done.code, done.stdout.count("\n"), done.stderr) == (0, 28, "")
    assert plot.read_bytes().startswith(b"\x89PNG")


def model_of(numbers: int, period: float | None) -> ModelInfo:
    """One that knows how long a step takes, or does not."""
    x = TensorInfo("x", np.dtype(np.float32), (numbers,))
    return ModelInfo("tide", 1, "lstm", (x,), (x,), (), "", period, 1, 1, rollout_output="x")


def drawn(levels: list[float], period: float | None = 60.0, numbers: int = 1) -> Figure:
    """Ten steps ahead of a hundred readings."""
    fan = np.zeros((10, len(levels) or 1, numbers), np.float32)
    figure = draw(Figure, model_of(numbers, period), np.zeros((100, numbers)), fan, levels, "tide: 10 steps ahead, 50 futures")
    assert isinstance(figure, Figure)
    return figure


@pytest.mark.parametrize(
    ("levels", "legend"),
    [
        ([0.1, 0.5, 0.9], ["readings", "80 % of futures (0.1 to 0.9)", "median"]),
        ([0.05, 0.25, 0.75, 0.95], ["readings", "90 % of futures (0.05 to 0.95)", "50 % of futures (0.25 to 0.75)"]),
        ([0.9], ["readings", "quantile 0.9"]),
        ([], ["readings", "one future"]),
    ],
)
def test_a_picture_says_what_it_shows(levels: list[float], legend: list[str]) -> None:
    """A title, and what each band and line is."""
    figure = drawn(levels, numbers=2)
    assert figure.get_suptitle() == "tide: 10 steps ahead, 50 futures"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == legend
    assert [panel.get_ylabel() for panel in figure.axes] == ["x[0]", "x[1]"]


@pytest.mark.parametrize(
    ("period", "label", "end"),
    [
        (None, "steps from the last reading", 10.0),
        (0.001, "time from the last reading (ms)", 10.0),
        (0.5, "time from the last reading (s)", 5.0),
        (60.0, "time from the last reading (min)", 10.0),
        (1800.0, "time from the last reading (h)", 5.0),
        (86400.0, "time from the last reading (d)", 10.0),
    ],
)
def test_time_is_told_in_a_unit_that_suits_it(period: float | None, label: str, end: float) -> None:
    """As long as the readings and the forecast together take; steps where nobody knows."""
    (panel,) = drawn([0.5], period).axes
    assert panel.get_xlabel() == label
    past, ahead = (np.asarray(line.get_xdata()) for line in panel.lines)
    assert (past[0], past[-1], ahead[0], ahead[-1]) == pytest.approx((-29 * end / 10, 0, 0, end))


async def test_without_matplotlib_it_says_what_to_install(server: str, tmp_path: Path) -> None:
    """Before anything is read."""
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('no matplotlib')")
    done = await stepstream(server, "forecast", "ecg", "--plot", "fan.png", env={"PYTHONPATH": str(tmp_path)})
    assert done.code == 2
    assert done.stderr == "stepstream: --plot: expected matplotlib to be installed: pip install 'stepstream[examples]'\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (("ecg",), "", "stdin: expected readings to go on from, got none"),
        (("ecg",), "mv\n1\noff\n", "line 3: mv: expected a finite number, got 'off'"),
        (("ecg", "--levels", "a,b"), "1\n", "--levels: expected numbers between commas, got 'a,b'"),
        (("ecg", "--levels", "0.1,0_1"), "1\n", "--levels: expected numbers between commas, got '0.1,0_1'"),
        (("ecg", "--levels", "0.9,0.1"), "1\n", "levels: expected numbers between 0 and 1, ascending, got [0.9, 0.1]"),
        (("ecg", "--temperature", "0"), "1\n", "temperature: expected a positive number, since 100 paths would be the same"),
        (("pair",), "1,2\n", "model: expected one with an output that predicts its input, got 'pair', which has none"),
        (("tokens",), "1\n", "model: expected one of numbers to forecast with, got 'tokens', which is of tokens"),
        (("ecg", "--horizon", "0"), "1\n", "--horizon"),
    ],
)
async def test_what_cannot_be_forecast_is_said(server: str, arguments: tuple[str, ...], stdin: str, message: str) -> None:
    """Exit code 2, and nothing on stdout."""
    done = await stepstream(server, "forecast", *arguments, stdin=stdin)
    assert (done.code, done.stdout) == (2, "")
    assert message in done.stderr
