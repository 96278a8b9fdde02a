"""`stepstream top`: the difference of two readings of the metrics."""

from __future__ import annotations

import asyncio
import json
import math
import signal

import pytest

from stepstream import Client
from stepstream.cli.top import Activity, Histogram, Split, activities, laid_out, parsed
from stepstream_server.app import Bound
from stepstream_server.config import EngineSettings
from support.command import ended, start, stepstream
from support.terminal import CTRL_C, terminal

SPLITS = ("batch_rows", "queue_seconds", "compute_seconds", "step_seconds")
FIELDS = {
    "model", "version", "sessions", "slots", "streams", "pending_steps", "steps_per_second", "failures_per_second", *SPLITS,
}  # fmt: skip


def page(steps: int, batches: tuple[int, int, int], total: float, refused: int = 0) -> str:
    """A metrics page: steps so far, and cumulative counts of batches of up to 1, up to 2 and any number of rows."""
    labels = 'model="ecg",version="1"'
    buckets = zip(("1.0", "2.0", "+Inf"), batches, strict=True)
    lines = [
        "# TYPE stepstream_steps_total counter",
        f"stepstream_steps_total{{{labels}}} {steps}",
        "# TYPE stepstream_step_failures_total counter",
        f'stepstream_step_failures_total{{{labels},reason="QUEUE_FULL"}} {refused}',
        f'stepstream_step_failures_total{{{labels},reason="WINDOW_FULL"}} {refused}',
        "# TYPE stepstream_slots gauge",
        f'stepstream_slots{{{labels},state="used"}} 3',
        f'stepstream_slots{{{labels},state="free"}} 7',
        "# TYPE stepstream_batch_size histogram",
        *(f'stepstream_batch_size_bucket{{{labels},le="{edge}"}} {count}' for edge, count in buckets),
        f"stepstream_batch_size_count{{{labels}}} {batches[-1]}",
        f"stepstream_batch_size_sum{{{labels}}} {total}",
        "# TYPE stepstream_turns_total counter",
        'stepstream_rpc_handled_total{service="x",method="y",code="OK"} 4',
    ]
    return "\n".join(lines) + "\n"


def test_rates_and_splits_are_of_the_time_between() -> None:
    """What happened before the first look does not count; series with more labels are summed."""
    before, now = parsed(page(100, (50, 50, 50), 50), 10.0), parsed(page(300, (50, 150, 150), 250, refused=1), 12.0)
    (ecg,) = activities(before, now)
    assert (ecg.model, ecg.version, ecg.slots) == ("ecg", "1", 10)
    assert (ecg.steps_per_second, ecg.failures_per_second) == (100.0, 1.0)
    assert (ecg.batch_rows.mean, ecg.batch_rows.p50) == (2.0, 1.5)
    assert ecg.queue_seconds.mean is None


def test_a_model_that_appears_in_between_counts_from_nothing() -> None:
    """Its counters began there."""
    (ecg,) = activities(parsed("", 10.0), parsed(page(300, (0, 10, 10), 20), 12.0))
    assert (ecg.steps_per_second, ecg.batch_rows.mean) == (150.0, 2.0)


def test_quantiles_are_those_of_prometheus() -> None:
    """Linear within a bucket, the last finite edge in the infinite one, none without observations."""
    histogram = Histogram({1.0: 10.0, 2.0: 30.0, math.inf: 40.0}, 60.0)
    assert [histogram.quantile(level) for level in (0.125, 0.25, 0.5, 0.75, 0.99)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert histogram.since(histogram).quantile(0.5) is None


async def test_it_tells_what_the_server_does(bound: Bound, client: Client) -> None:
    """Under load: sessions, rates and all times of the model that is busy, and an idle one beside it."""
    async with client.open_sessions("ecg", 8) as group:
        process = await start(bound.listen, "top", "--once", "--json", "--metrics", bound.metrics, "--interval", "0.1")
        watching = asyncio.create_task(ended(process))
        while not watching.done():
            await group.step([[-1.5]] * 8)
        done = await watching
    assert done.code == 0, done.stderr
    records = {record["model"]: record for record in done.document["models"]}
    assert set(records) == {"ecg", "pair", "tokens"}
    ecg, pair = records["ecg"], records["pair"]
    assert set(ecg) == FIELDS
    assert (ecg["sessions"], ecg["streams"], pair["sessions"]) == (8, 1, 0)
    assert ecg["slots"] == EngineSettings().capacity  # as many sessions as there may be: rollouts have room of their own
    assert ecg["steps_per_second"] > 0
    assert all(0 < ecg[split]["p50"] <= ecg[split]["p99"] for split in SPLITS)
    assert 1 <= ecg["batch_rows"]["mean"] <= 8
    assert (pair["steps_per_second"], pair["batch_rows"]["p50"]) == (0, None)


async def test_for_people_it_is_a_line_per_model(bound: Bound) -> None:
    """With names above the columns; nothing has happened, which is a dash."""
    done = await stepstream(bound.listen, "top", "--once", "--metrics", bound.metrics, "--interval", "0.05")
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["MODEL", "SESSIONS", "STEPS/S", "FAILED/S"]
    assert [line.split()[:2] for line in lines[1:]] == [["ecg", "1"], ["pair", "1"], ["tokens", "1"]]


async def test_without_once_it_goes_on_until_interrupted(bound: Bound) -> None:
    """A line of JSON per interval, and 130 after Ctrl-C."""
    process = await start(bound.listen, "--json", "top", "--metrics", bound.metrics, "--interval", "0.05")
    assert process.stdout is not None
    for _ in range(2):
        assert len(json.loads(await process.stdout.readline())["models"]) == 3
    process.send_signal(signal.SIGINT)
    done = await ended(process)
    assert (done.code, done.stderr) == (130, "")


def busy(model: str) -> Activity:
    """All its numbers are large."""
    times = Split(1.0, 98.76543, 12345.6789)
    return Activity(
        model=model, version="17", sessions=123456, slots=987654, streams=4321, pending_steps=7654321,
        steps_per_second=12345678.9, failures_per_second=2345678.9, batch_rows=Split(4096.5, 4096.0, 4096.0),
        queue_seconds=times, compute_seconds=times, step_seconds=times,
    )  # fmt: skip


NUMBERS = ["123456/987654", "12,345,679", "2,345,679", "7654321", "4096.5", *["98765.43", "12345678.90"] * 3]


@pytest.mark.parametrize("width", [200, 80, 60, 20, 14])
def test_no_number_is_cut_however_narrow_the_terminal_is(width: int) -> None:
    """Each is there whole, in order, of each model; no line is wider than the terminal."""
    text = laid_out([busy("ecg"), busy("tide")], width)
    assert max(map(len, text.splitlines())) <= width
    for model, part in zip(("ecg", "tide"), ("ecg" + rest for rest in text.split("ecg")[1].split("tide")), strict=True):
        words = [word for word in part.split() if word[0].isdigit()]
        assert words == ["17", *NUMBERS], model
    assert (len(text.splitlines()) == 3) == (width == 200)


def test_in_a_pipe_there_is_a_line_per_model() -> None:
    """Which has no width."""
    assert len(laid_out([busy("ecg"), busy("tide")], None).splitlines()) == 3


async def test_at_a_terminal_it_is_live(bound: Bound) -> None:
    """Whole numbers on its other screen, until Ctrl-C."""
    async with terminal(bound.listen, "top", "--metrics", bound.metrics, "--interval", "0.05", columns=60) as screen:
        await screen.until("stepstream top. Milliseconds: p50 / p99. Ctrl-C ends.")
        for model in ("ecg 1", "pair 1", "tokens 1"):
            await screen.until(model)
            await screen.until("total ms   -")
        screen.type(CTRL_C)
        assert await screen.end() == 130


async def test_a_server_on_this_machine_is_not_looked_for_by_a_proxy(bound: Bound) -> None:
    """Elsewhere the proxy is asked, which is not there."""
    env = {"http_proxy": "http://127.0.0.1:1", "no_proxy": ""}
    here = await stepstream(bound.listen, "top", "--once", "--metrics", bound.metrics, "--interval", "0.05", env=env)
    assert here.code == 0, here.stderr
    local = bound.metrics.replace("127.0.0.1", "localhost")
    assert (await stepstream(bound.listen, "top", "--once", "--metrics", local, "--interval", "0.05", env=env)).code == 0
    there = await stepstream(bound.listen, "top", "--once", "--metrics", "metrics.invalid:8102", env=env)
    assert there.code == 3
    assert "Connection refused" in there.stderr


@pytest.mark.parametrize(
    ("metrics", "code", "message"),
    [
        ("127.0.0.1:1", 3, "no metrics at http://127.0.0.1:1/metrics"),
        ("http://127.0.0.1:1/metrics", 2, "--metrics: expected HOST:PORT"),
    ],
)
async def test_where_there_are_no_metrics(metrics: str, code: int, message: str) -> None:
    """Nobody there is 3, an address that is none is 2."""
    done = await stepstream("", "top", "--once", "--metrics", metrics)
    assert (done.code, done.stdout) == (code, "")
    assert message in done.stderr


async def test_what_is_no_metrics_page_is_told(bound: Bound) -> None:
    """Such as the server's own port."""
    done = await stepstream(bound.listen, "top", "--once", "--metrics", bound.listen)
    assert done.code == 3
    assert "--metrics HOST:PORT says where to look" in done.stderr
