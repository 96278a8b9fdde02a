"""The beat tracker: its weights are read without unpickling, and exported as one step."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from programs.fetch import BEATNET
from programs.published import BEATS

from programs import beatnet
from stepstream_server import backends
from stepstream_server.config import BackendSettings
from support.published import require


@pytest.fixture
def module() -> beatnet.Step:
    """With the weights of the package."""
    require(BEATNET)
    return beatnet.read(BEATS.path)


def test_every_number_of_the_file_is_a_weight_once(module: beatnet.Step) -> None:
    """None is left out, and none taken twice."""
    with zipfile.ZipFile(BEATS.path) as file:
        arrays = [file.read(name) for name in file.namelist() if "/data/" in name]
    stored = np.sort(np.concatenate([np.frombuffer(each, "<f4") for each in arrays]))
    weights = np.sort(np.concatenate([each.detach().numpy().ravel() for each in module.parameters()]))
    assert np.array_equal(weights, stored)


def test_exported_step_is_the_modules(module: beatnet.Step, long_run: bool, tmp_path: Path) -> None:
    """Five sessions over ten hops, in one batch."""
    if not long_run:
        pytest.skip("with --long")
    bundle = BEATS.bundle(tmp_path / "beatnet")
    backend = backends.build(bundle.spec, {}, BackendSettings(threads=1), slots=5, max_batch=5, graph=bundle.graph)
    slots, x = backend.allocate(5), np.random.default_rng(0).normal(size=(10, 5, 1, beatnet.FEATURES)).astype(np.float32)
    h = c = torch.zeros(beatnet.LAYERS, 5, beatnet.HIDDEN)
    for hop in x:
        [found] = backend.collect(backend.launch("step", slots, (hop,), 1)).outputs
        with torch.no_grad():
            y, h, c = module(torch.from_numpy(hop[:, 0]), h, c)
        assert np.allclose(found[:, 0], y.numpy(), rtol=1e-5, atol=1e-5)
