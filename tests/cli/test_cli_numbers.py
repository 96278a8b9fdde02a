"""What is a number on the command line and in lines of text, and how columns are found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stepstream import TensorInfo
from stepstream.cli.columns import Column, Table
from stepstream.cli.options import Misuse, real, seconds, whole

WIDTH = 2000


@pytest.mark.parametrize(("text", "number"), [("12", 12.0), ("-1.5e3", -1500.0), (".5", 0.5), ("+0", 0.0), ("inf", math.inf)])
def test_a_number_is_written_as_programs_write_it(text: str, number: float) -> None:
    """Decimal digits, a point, an exponent."""
    assert real(text) == number


@pytest.mark.parametrize("text", ["", "1_0", "\u0661\u0662", "\uff11", "1,5", "0x10", "one"])
def test_nothing_else_is_a_number(text: str) -> None:
    """Neither underscores nor digits of other scripts, which Python takes for numbers."""
    for parse in (real, whole):
        with pytest.raises(ValueError, match="."):
            parse(text)


@pytest.mark.parametrize(
    ("text", "number"), [("12", 12), ("12.0", 12), ("1e3", 1000), ("-0.0", 0), ("18446744073709551615", 2**64 - 1)]
)
def test_a_whole_number_may_have_a_point(text: str, number: int) -> None:
    """As long as nothing is behind it; plain digits count to the last one."""
    assert whole(text) == number


@pytest.mark.parametrize("text", ["12.5", "nan", "inf", "1e-3"])
def test_what_is_not_whole_is_said(text: str) -> None:
    """Rather than rounded."""
    with pytest.raises(ValueError, match=f"expected a whole number, got '{text}'"):
        whole(text)


@pytest.mark.parametrize(("text", "time"), [("30s", 30.0), ("5m", 300.0), ("1.5h", 5400.0), ("2d", 172800.0), ("0s", 0.0)])
def test_times_have_a_unit(text: str, time: float) -> None:
    """One letter behind a number."""
    assert seconds(text) == time


@pytest.mark.parametrize("text", ["", "30", "h", "1w", "-1s", "nans", "1_0s", "1 h m"])
def test_other_times_are_refused(text: str) -> None:
    """Also those without a unit."""
    with pytest.raises(ValueError, match="."):
        seconds(text)


class Counted(str):
    """A name that counts how often it is compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def test_columns_of_a_wide_header_are_found_in_one_go() -> None:
    """Not by a look at all names for each: a comparison per column at most, and each column has its own place."""
    tensor = TensorInfo("x", np.dtype(np.float32), (WIDTH,))
    columns = [Column(f"x[{n}]", tensor) for n in range(WIDTH)]
    Counted.comparisons = 0
    table = Table(columns, [Counted(f"x[{n}]") for n in reversed(range(WIDTH))], WIDTH)
    assert Counted.comparisons <= WIDTH
    assert table.row(",".join(map(str, reversed(range(WIDTH))))) == list(range(WIDTH))


def test_a_wide_header_is_not_told_whole() -> None:
    """A message fits a terminal."""
    column = Column("y", TensorInfo("y", np.dtype(np.float32), (1,)))
    with pytest.raises(Misuse) as told:
        Table([column], [f"x[{n}]" for n in range(WIDTH)], WIDTH)
    assert str(told.value).endswith("x[18],x[19] and 1980 more; --columns gives other names")
