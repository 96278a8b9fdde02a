"""Lookups of another tenant's sessions and of nobody's, timed in pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.lookups import LOOKUPS, auc, make_tenants, measure_here, measure_over_grpc
from benchmarks.neighbours import predicting
from support.server import serving


@pytest.mark.parametrize(
    ("these", "others", "expected"),
    [
        ([3.0, 4.0], [1.0, 2.0], 1.0),
        ([1.0], [2.0, 3.0], 0.0),
        ([1.0, 2.0], [1.0, 2.0], 0.5),
        ([2.0], [1.0, 2.0, 3.0, 4.0], 0.375),
    ],
)
def test_the_auc_is_how_often_one_is_more(these: list[float], others: list[float], expected: float) -> None:
    """Pairs that are alike count half."""
    assert auc(these, others) == expected


def test_the_auc_is_of_all_pairs() -> None:
    """It is what counting them one by one gives."""
    these, others = np.random.default_rng(0).integers(0, 9, (2, 40)).astype(float)
    counted = [(one > other) + 0.5 * (one == other) for one in these for other in others]
    assert auc(these.tolist(), others.tolist()) == pytest.approx(np.mean(counted))


async def test_every_lookup_is_timed(tmp_path: Path) -> None:
    """By an engine alone and over gRPC all of them, by services all that are not said on a stream; none finds anything."""
    bundle, tokens = predicting(tmp_path / "served"), make_tenants(tmp_path / "tenants.toml")
    seen = await measure_here(bundle, 1, 8)
    async with serving(bundle.path.parent, door={"tokens": str(tmp_path / "tenants.toml")}) as bound:
        seen["gRPC"] = await measure_over_grpc(bound.listen, bundle.spec.name, tokens, 1, 8)
    assert {where: set(lookups) for where, lookups in seen.items()} == {
        "engine": set(LOOKUPS),
        "services": {*LOOKUPS} - {"attach"},
        "gRPC": set(LOOKUPS),
    }
    assert all(len(each.foreign) == len(each.unknown) == 1 for lookups in seen.values() for each in lookups.values())
