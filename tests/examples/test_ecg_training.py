"""The training script of the ecg model, for a handful of iterations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the torch extra")

from evaluate import serve  # noqa: E402
from readings import HORIZONS, Millivolts, load, split  # noqa: E402
from train import LEVELS, Monitor, Scaling, Schedule, features_of, pinball, save_bundle, scaling_of, train, windows  # noqa: E402

SHORT = Schedule(iterations=40, batch=8, steps=90, seed=7)


@pytest.fixture(scope="module")
def readings() -> Millivolts:
    """The readings that the shipped model is trained on."""
    return split(load())[0]


@pytest.fixture(scope="module")
def scaling(readings: Millivolts) -> Scaling:
    """Their scaling."""
    return scaling_of(readings)


@pytest.fixture(scope="module")
def trained(readings: Millivolts, scaling: Scaling) -> tuple[Monitor, list[float]]:
    """A barely trained model and its losses."""
    return train(readings, scaling, SHORT)


def test_a_few_iterations_reduce_the_loss(trained: tuple[Monitor, list[float]]) -> None:
    """The mean loss of the last iterations is well below that of the first."""
    losses = trained[1]
    assert len(losses) == SHORT.iterations
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_the_same_seed_gives_the_same_model(readings: Millivolts, scaling: Scaling, trained: tuple[Monitor, list[float]]) -> None:
    """Trained again, every loss and every weight is the same; another seed gives others."""
    few = Schedule(iterations=3, batch=8, steps=90, seed=7)
    first, losses = train(readings, scaling, few)
    again, same_losses = train(readings, scaling, few)
    assert losses == same_losses
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in first.state_dict().items())
    assert train(readings, scaling, Schedule(iterations=3, batch=8, steps=90, seed=8))[1] != losses


def test_the_saved_bundle_predicts_what_the_trained_module_does(
    readings: Millivolts, scaling: Scaling, trained: tuple[Monitor, list[float]], tmp_path: Path
) -> None:
    """Served, it takes mV and gives mV: the module's sorted quantiles of the change, scaled, on top of the reading."""
    model = trained[0]
    bundle = save_bundle(model, scaling, tmp_path / "ecg")
    some = readings[:50]
    served = serve(bundle, some)
    with torch.no_grad():
        changes = model(features_of(some[None], scaling))
    for name in HORIZONS:
        expected = np.sort(changes[name][0].numpy() * scaling.ahead[name] + some[:, None], axis=1)
        np.testing.assert_allclose(served[name], expected, atol=1e-5)


def test_windows_look_ahead_by_the_horizon_and_never_beyond_the_readings(scaling: Scaling) -> None:
    """A target is the scaled change from a reading to the one `ahead` steps later, the last reading included."""
    readings = np.arange(40, dtype=np.float64)  # each reading is its own position
    schedule = Schedule(iterations=200, batch=4, steps=10)
    latest = 0.0
    for features, targets in windows(readings, scaling, schedule):
        seen = features[..., 0].numpy() * scaling.scale[0] + scaling.mean[0]
        for name, ahead in HORIZONS.items():
            np.testing.assert_allclose(targets[name].numpy() * scaling.ahead[name], ahead, rtol=1e-5)
        latest = max(latest, float(seen.max()) + max(HORIZONS.values()))
    assert latest == pytest.approx(39, abs=1e-3)


def test_pinball_is_least_at_the_quantiles() -> None:
    """Of constant predictions for a sample, the sample's own quantiles lose least."""
    sample = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    quantiles = torch.quantile(sample, torch.tensor(LEVELS))
    best = pinball(quantiles.expand(2000, -1), sample)
    assert best < pinball((quantiles + 0.1).expand(2000, -1), sample)
    assert best < pinball((quantiles * 1.2).expand(2000, -1), sample)
