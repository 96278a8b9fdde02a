"""What is linear before a cell or between its layers is folded into weights: what is served is what torch computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stepstream_server.backends import build
from stepstream_server.bundles import Head, load, save
from stepstream_server.config import BackendSettings
from stepstream_server.errors import BundleError
from stepstream_server.spec import cell_model
from support.batches import run, served

torch = pytest.importorskip("torch")
nn = torch.nn


def by_torch(front: Any, module: Any, head: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """A head over a module over a front, from the initial state: [rows, length, width]."""
    with torch.no_grad():
        outputs: NDArray[np.float32] = head(module(front(torch.from_numpy(x)))[0]).numpy()
    return outputs


def readings(features: int, rows: int = 4, length: int = 30) -> NDArray[np.float32]:
    """[rows, length, features], of ordinary size."""
    return np.random.default_rng(3).normal(size=(rows, length, features)).astype(np.float32)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [(5, 3), (1, 8)], ids=["narrower", "wider"])
def test_a_linear_in_front_is_served_as_torch_applies_it(
    tmp_path: Path, kind: str, layers: int, bias: bool, widths: tuple[int, int]
) -> None:
    """The model's input is what goes into the Linear; outputs are those of all three within 1e-5."""
    torch.manual_seed(1)
    front, module = nn.Linear(*widths, bias=bias), getattr(nn, kind)(widths[1], 16, layers, bias=bias, batch_first=True)
    head = nn.Linear(16, 2)
    save(tmp_path / "m", module, head, front=front)
    bundle = load(tmp_path / "m")
    model = cell_model(bundle.spec)
    assert (bundle.spec.inputs[0].shape, model.cell.input_size, model.front) == ((widths[0],), widths[0], None)
    x = readings(widths[0])
    np.testing.assert_allclose(served(bundle.spec, bundle.weights, x)[0], by_torch(front, module, head, x), atol=1e-5)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # torch computes it in another way
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("front", [nn.Identity(), nn.Linear(3, 3)], ids=["bare", "linear"])
def test_projections_are_served_as_torch_applies_them(tmp_path: Path, layers: int, bias: bool, front: Any) -> None:
    """Every head over an LSTM with `proj_size` gives what torch gives within 1e-5, also with a Linear in front."""
    torch.manual_seed(2)
    module = nn.LSTM(3, 16, layers, bias=bias, proj_size=4, batch_first=True)
    heads = {"level": nn.Linear(4, 2), "rate": nn.Linear(4, 1, bias=False)}
    save(tmp_path / "m", module, heads, front=front if isinstance(front, nn.Linear) else None)
    bundle, x = load(tmp_path / "m"), readings(3)
    for output, head in zip(served(bundle.spec, bundle.weights, x), heads.values(), strict=True):
        np.testing.assert_allclose(output, by_torch(front, module, head, x), atol=1e-5)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projected_session_keeps_h_as_it_is_before_the_projection(tmp_path: Path) -> None:
    """After some steps c is torch's, and torch's h is the projection of the session's."""
    torch.manual_seed(2)
    module = nn.LSTM(3, 16, 2, proj_size=4, batch_first=True)
    bundle, x = save(tmp_path / "m", module, nn.Linear(4, 1)), readings(3, rows=2)
    assert [(state.name, state.shape) for state in bundle.spec.states[:2]] == [("h", (2, 16)), ("c", (2, 16))]
    backend = build(bundle.spec, bundle.weights, BackendSettings(kind="onnx", threads=1), slots=2, max_batch=2)
    states = run(backend, {s.name: np.zeros((2, *s.shape), np.float32) for s in bundle.spec.states}, [x], [30])[1]
    with torch.no_grad():
        h, c = module(torch.from_numpy(x))[1]
        projected = [torch.from_numpy(states["h"][:, k]) @ getattr(module, f"weight_hr_l{k}").T for k in (0, 1)]
    np.testing.assert_allclose(np.stack(projected), h.numpy(), atol=1e-5)
    np.testing.assert_allclose(states["c"].swapaxes(0, 1), c.numpy(), atol=1e-5)


def test_what_refers_to_the_input_means_what_goes_into_the_linear(tmp_path: Path) -> None:
    """A head that predicts a change of the input adds the input as it came, not what the Linear made of it."""
    torch.manual_seed(3)
    front, module, head = nn.Linear(1, 4), nn.GRU(4, 8, batch_first=True), nn.Linear(8, 1)
    bundle = save(tmp_path / "m", module, {"y": Head(head, residual_of="x", predicts="x")}, front=front, input_name="x")
    x = readings(1)
    np.testing.assert_allclose(served(bundle.spec, bundle.weights, x)[0], by_torch(front, module, head, x) + x, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "head", "front", "message"),
    [
        (
            nn.GRU(3, 4),
            nn.Linear(4, 1),
            nn.Linear(3, 5),
            "cell.weight_ih_l0: expected 5 columns, as many as front.weight has rows",
        ),
        (nn.LSTM(3, 4, proj_size=2), nn.Linear(4, 1), None, "head.output.weight: expected 2 columns, as many as cell.weight_hr"),
    ],
    ids=["front", "head"],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, module: Any, head: Any, front: Any, message: str) -> None:
    """The two weights are named, and nothing is written."""
    with pytest.raises(BundleError, match=message):
        save(tmp_path / "m", module, head, front=front)
    assert not (tmp_path / "m").exists()
