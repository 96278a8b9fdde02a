"""A normaliser may be given as arrays, as tensors or as a fitted scaler: the features served are those of training, or none."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream_server.bundles import BundleError, FeaturesFront, load, save
from stepstream_server.spec import cell_model
from support.batches import served

torch = pytest.importorskip("torch")
nn = torch.nn

READINGS = np.random.default_rng(5).normal([100.0, -3.0], [20.0, 0.1], (4, 30, 2)).astype(np.float32)  # [rows, length, features]


class Standard:
    """As scikit-learn's StandardScaler: it notes a mean that it leaves out, and None for a scale."""

    def __init__(self, *, with_mean: bool = True, with_std: bool = True) -> None:
        self.with_mean = with_mean
        self.mean_: Any = READINGS.mean(axis=(0, 1), dtype=np.float64)
        self.scale_: Any = READINGS.std(axis=(0, 1), dtype=np.float64) if with_std else None

    def transform(self, x: NDArray[Any]) -> NDArray[Any]:
        """In place, as scalers may, and not without a word."""
        warnings.warn("it was fitted to columns with names", stacklevel=1)
        x -= self.mean_ if self.with_mean else 0
        x /= 1 if self.scale_ is None else self.scale_
        return x


class MinMax:
    """As scikit-learn's MinMaxScaler: it multiplies by its scale."""

    def __init__(self, *, clip: bool = False) -> None:
        low, high = READINGS.min(axis=(0, 1)), READINGS.max(axis=(0, 1))
        self.clip, self.scale_, self.min_ = clip, 1 / (high - low), -low / (high - low)

    def transform(self, x: NDArray[Any]) -> NDArray[Any]:
        """To 0 and 1 where it was fitted."""
        scaled: NDArray[Any] = x * self.scale_ + self.min_
        return scaled.clip(0, 1) if self.clip else scaled


class Signed(Standard):
    """Does more than its numbers say."""

    def transform(self, x: NDArray[Any]) -> NDArray[Any]:
        """Without the size of what is far away."""
        return super().transform(x).clip(-5, 5)


class Bare:
    """A scaler of whatever attributes, without a transform."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


@pytest.mark.parametrize(
    "scaler",
    [Standard(), Standard(with_mean=False), Standard(with_std=False), MinMax(), Bare(mean_=[100.0, -3.0], scale_=torch.ones(2))],
    ids=["standard", "without the mean", "without the scale", "min and max", "bare"],
)
def test_a_fitted_scaler_is_served_as_it_transforms(tmp_path: Path, scaler: Any) -> None:
    """The server takes readings as they come and gives what torch gives for transformed ones, within 1e-5."""
    torch.manual_seed(4)
    module, head = nn.GRU(2, 16, batch_first=True), nn.Linear(16, 3)
    save(tmp_path / "m", module, head, front=scaler)
    bundle = load(tmp_path / "m")
    with warnings.catch_warnings(action="ignore"):
        seen = READINGS.astype(np.float64) - [100.0, -3.0]
        seen = seen if isinstance(scaler, Bare) else scaler.transform(READINGS.astype(np.float64))
    with torch.no_grad():
        expected = head(module(torch.from_numpy(seen.astype(np.float32)))[0]).numpy()
    np.testing.assert_allclose(served(bundle.spec, bundle.weights, READINGS)[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("scaler", "message"),
    [
        (Signed(), "save: front: expected a scaler whose transform does what its numbers say; .*, got .*Signed"),
        (MinMax(clip=True), "save: front: expected a scaler whose transform does what its numbers say; .*, got .*MinMax"),
        (Bare(center_=np.zeros(2), scale_=np.ones(2)), r"save: front: expected a scaler of mean_ and scale_, .* FeaturesFront\("),
        (Bare(mean_=np.zeros(2)), r"save: front: expected a FeaturesFront, a fitted scaler \(mean_ and scale_\)"),
        (Bare(mean_=None, scale_=None), "save: front.mean_: expected one axis, of one number per feature"),
        (Bare(mean_=np.zeros(2), scale_=np.ones(3)), "front.scale: expected 2 numbers, one per mean, got 3"),
        (Bare(min_=np.zeros(2), scale_=np.ones(3)), "save: front.scale_: expected 2 numbers, one per min_, got 3"),
    ],
    ids=["subclass", "clip", "other", "unfitted", "nothing", "lengths", "lengths of min and max"],
)
def test_a_scaler_that_is_more_or_less_is_refused(tmp_path: Path, scaler: Any, message: str) -> None:
    """Nothing is written that would be served otherwise than the scaler transforms."""
    with pytest.raises(BundleError, match=message):
        save(tmp_path / "m", nn.GRU(2, 4), nn.Linear(4, 1), front=scaler)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "numbers",
    [np.array, lambda n: np.array(n, np.float32), lambda n: torch.tensor(n, requires_grad=True), list],
    ids=["float64", "float32", "tensor", "list"],
)
def test_arrays_are_taken_as_their_numbers(tmp_path: Path, numbers: Any) -> None:
    """What `load` reads has plain numbers, whatever they were given in."""
    front = FeaturesFront(numbers([0.5, 0.0]), numbers([1.0, 0.25]), differences=True)
    save(tmp_path / "m", nn.RNN(2, 4), nn.Linear(4, 1), front=front)
    assert cell_model(load(tmp_path / "m").spec).front == FeaturesFront((0.5, 0.0), (1.0, 0.25), differences=True)


@pytest.mark.parametrize(
    ("mean", "message"),
    [
        (np.zeros((1, 2)), r"save: front.mean: expected one axis, of one number per feature, got the shape \[1, 2\]"),
        (0.0, r"save: front.mean: expected one axis, of one number per feature, got the shape \[\]"),
        (["a", "b"], r'save: front.mean: expected numbers, one per feature, got \["a", "b"\]'),
        (torch.zeros(2, device="meta"), "save: front.mean: expected numbers, one per feature, got tensor"),
        (np.array([0.0, np.nan]), "save: front.mean: expected finite numbers, got 1 that are not"),
        (np.zeros(3), "front.scale: expected 3 numbers, one per mean, got 2"),
    ],
    ids=["two axes", "no axis", "text", "meta", "nan", "length"],
)
def test_what_is_not_a_number_per_feature_is_refused(tmp_path: Path, mean: Any, message: str) -> None:
    """The field is named before anything is written."""
    with pytest.raises(BundleError, match=message):
        save(tmp_path / "m", nn.GRU(2, 4), nn.Linear(4, 1), front=FeaturesFront(mean, np.ones(2)))  # type: ignore[arg-type]
    assert not (tmp_path / "m").exists()
