"""A normaliser as authors have it, in arrays, tensors or a fitted scaler, becomes the plain record that a manifest holds."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stepstream_server.bundles.fields import shorten, wrong
from stepstream_server.bundles.plain import type_name
from stepstream_server.spec import FeaturesFront


class Scaler(Protocol):
    """A fitted scaler with the attributes that scikit-learn gives them: `mean_` and `scale_`, as StandardScaler, or `min_` and
    `scale_`, as MinMaxScaler. If it has a `transform`, that must do what these numbers say, and no more."""

    scale_: Any  # [features], or None for all 1 where there is a `mean_`


def plain_features(front: FeaturesFront) -> FeaturesFront:
    """Turns a front's numbers into plain ones. Raises BundleError naming the field that does not hold one number per feature."""
    return FeaturesFront(_numbers(front.mean, "front.mean"), _numbers(front.scale, "front.scale"), front.differences)


def scaler_features(scaler: Scaler) -> FeaturesFront:
    """What a fitted scaler does, as a front. Raises BundleError for one that is not as `Scaler` says."""
    if hasattr(scaler, "mean_"):
        front = _standard(scaler)
    elif hasattr(scaler, "min_"):
        front = _min_max(scaler)
    else:
        remedy = "give what it does as FeaturesFront(mean, scale)"
        raise wrong("save", "front", f"a scaler of mean_ and scale_, or of min_ and scale_; {remedy}", type_name(scaler))
    if hasattr(scaler, "transform"):
        _check_transform(scaler, front)
    return front


def _standard(scaler: Any) -> FeaturesFront:
    """(x - mean_) / scale_. One that leaves out the mean may have noted it all the same."""
    mean, scale = scaler.mean_, scaler.scale_
    if mean is None or not getattr(scaler, "with_mean", True):
        mean = np.zeros_like(scale)
    if scale is None:
        scale = np.ones_like(mean)
    return FeaturesFront(_numbers(mean, "front.mean_"), _numbers(scale, "front.scale_"))


def _min_max(scaler: Any) -> FeaturesFront:
    """x * scale_ + min_."""
    factor, offset = np.array(_numbers(scaler.scale_, "front.scale_")), np.array(_numbers(scaler.min_, "front.min_"))
    if len(factor) != len(offset):
        raise wrong("save", "front.scale_", f"{len(offset)} numbers, one per min_", f"{len(factor)}")
    return FeaturesFront(tuple((-offset / factor).tolist()), tuple((1 / factor).tolist()))


def _check_transform(scaler: Any, front: FeaturesFront) -> None:
    """A subclass, or an option such as `clip`, may do more than the numbers say: seen from afar on both sides."""
    mean, scale = np.array(front.mean), np.array(front.scale)
    if len(mean) != len(scale):
        raise wrong("save", "front.scale_", f"{len(mean)} numbers, one per mean_", f"{len(scale)}")
    normalised = np.array([[-9.0], [0.0], [0.5], [9.0]]) * np.ones_like(mean)  # [4, features]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may miss the names of the columns that it was fitted to
        transformed = np.asarray(scaler.transform(normalised * scale + mean))
    if not np.allclose(transformed, normalised, rtol=1e-5, atol=1e-5):
        remedy = "give what it does as FeaturesFront(mean, scale), if it is that"
        raise wrong("save", "front", f"a scaler whose transform does what its numbers say; {remedy}", type_name(scaler))


def _numbers(given: object, field: str) -> tuple[float, ...]:
    """One number per feature, of an array, a tensor or a sequence."""
    try:
        plain = given.tolist() if hasattr(given, "tolist") else given
        array: NDArray[np.float64] = np.asarray(plain, np.float64)
    except (TypeError, ValueError, RuntimeError):  # what is no number; rows of several lengths; a tensor without numbers
        raise wrong("save", field, "numbers, one per feature", shorten(given)) from None
    if array.ndim != 1:
        raise wrong("save", field, "one axis, of one number per feature", f"the shape {list(array.shape)}")
    if not np.isfinite(array).all():
        raise wrong("save", field, "finite numbers", f"{array.size - int(np.isfinite(array).sum())} that are not")
    return tuple(array.tolist())
