"""The command over a model of several inputs of every dtype: listed, and streamed as CSV and as JSON."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from support.command import stepstream
from support.front_door import front_door
from support.mixed import BEGIN, MixedBackend, mixed_spec

HEADER = "level[0],level[1],count,token,flag[0],flag[1]"


@pytest.fixture
async def served() -> AsyncIterator[str]:
    """The address of the server."""
    async with front_door("mixed", spec=mixed_spec, backend=MixedBackend) as front:
        yield front.address


async def test_a_model_is_listed_with_its_dtypes(served: str) -> None:
    """And with what is valid."""
    (record,) = (await stepstream(served, "models", "--json")).document
    assert [(each["dtype"], each["limit"], each["range"]) for each in record["inputs"]] == [
        ("float32", None, 1.5),
        ("int32", None, None),
        ("int64", 7, None),
        ("bool", None, None),
    ]
    assert (record["cell"], record["batching"]) == ("program", 4)


async def test_lines_of_csv_have_a_column_per_number(served: str) -> None:
    """By name, in any order; a truth value is 0 or 1, in both directions."""
    done = await stepstream(served, "stream", "mixed", stdin=f"{HEADER}\n0.5,-0.5,-7,3,0,1\n1.5,-1.5,2,0,1,0\n")
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "seq,level[0],level[1],total,token,seen[0],seen[1]",
        f"0,0.5,-0.5,{BEGIN - 7},3,0,1",
        f"1,1.5,-1.5,{BEGIN - 5},0,1,1",
    ]
    mixed_up = "flag[1],token,level[1],count,level[0],flag[0]\n1,3,-0.5,-7,0.5,0\n"
    done = await stepstream(served, "stream", "mixed", "--outputs", "total,seen", "--no-header", stdin=mixed_up)
    assert done.stdout == f"0,{BEGIN - 7},0,1\n"


async def test_lines_of_json_have_a_value_per_input(served: str) -> None:
    """Truth values as JSON writes them, or as 0 and 1."""
    steps = [
        {"level": [0.5, -0.5], "count": -7, "token": 3, "flag": [False, True]},
        {"level": [0, 0], "count": 0, "token": 0, "flag": [1, 0]},
    ]
    done = await stepstream(served, "stream", "mixed", "--json", stdin="".join(f"{json.dumps(step)}\n" for step in steps))
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"seq": 0, "outputs": {"level": [0.5, -0.5], "total": BEGIN - 7, "token": 3, "seen": [0, 1]}},
        {"seq": 1, "outputs": {"level": [0.0, 0.0], "total": BEGIN - 7, "token": 0, "seen": [1, 1]}},
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1.6,0,0,0,0,0", "level[0]: expected a number from -1.5 to 1.5, got 1.6"),
        ("0,nan,0,0,0,0", "level[1]: expected a number from -1.5 to 1.5, got nan"),
        ("0,0,2147483648,0,0,0", "count: expected a whole number of type int32, got 2147483648"),
        ("0,0,0.5,0,0,0", "count: expected a whole number of type int32, got '0.5'"),
        ("0,0,0,7,0,0", "token: expected a whole number >= 0 and < 7, got 7"),
        ("0,0,0,0,2,0", "flag[0]: expected 0 or 1, got 2"),
        ("0,0,0,0,0,true", "flag[1]: expected 0 or 1, got 'true'"),
    ],
)
async def test_a_cell_that_does_not_fit_is_named(served: str, line: str, said: str) -> None:
    """With what was expected of its column."""
    done = await stepstream(served, "stream", "mixed", stdin=f"{HEADER}\n{line}\n")
    assert done.code == 2
    assert f"line 2: {said}" in done.stderr


async def test_a_forecast_needs_a_model_that_predicts_its_input(served: str) -> None:
    """Which one of several inputs cannot be."""
    done = await stepstream(served, "forecast", "mixed", stdin=f"{HEADER}\n0,0,0,0,0,0\n")
    assert done.code == 2
    assert "expected one with an output that predicts its input, got 'mixed', which has none" in done.stderr
