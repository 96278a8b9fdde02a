"""Trained torch modules become bundles, or are refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepstream_server.bundles import Head, load, save
from stepstream_server.errors import BundleError
from stepstream_server.spec import EmbeddingFront, FeaturesFront, TextSpec, cell_model

torch = pytest.importorskip("torch")
nn = torch.nn


def restored(folder: Path, module: object, prefix: str) -> dict[str, object]:
    """A module's parameters as the bundle has them."""
    weights = load(folder).weights
    return {name.removeprefix(prefix): torch.from_numpy(each) for name, each in weights.items() if name.startswith(prefix)}


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_module_comes_back_bit_by_bit(tmp_path: Path, kind: str, layers: int) -> None:
    """A module filled from the bundle gives the very outputs of the one that was saved."""
    torch.manual_seed(1)
    make = getattr(nn, kind)
    module, head = make(3, 8, layers), nn.Linear(8, 2)
    spec = save(tmp_path / "m", module, head).spec
    assert (cell_model(spec).cell.kind, cell_model(spec).cell.layers, spec.name) == (kind.lower(), layers, "m")
    again, head_again = make(3, 8, layers), nn.Linear(8, 2)
    again.load_state_dict(restored(tmp_path / "m", again, "cell."))
    head_again.load_state_dict(restored(tmp_path / "m", head_again, "head.output."))
    x = torch.randn(5, 4, 3)
    assert torch.equal(head(module(x)[0]), head_again(again(x)[0]))


def test_everything_that_is_told_arrives(tmp_path: Path) -> None:
    """Heads by name and in order, the front, and the words for people."""
    heads = {
        "next": Head(nn.Linear(4, 3), "quantiles", 2.0, 0.5, "mv", (0.1, 0.5, 0.9), predicts="mv", description="mV"),
        "rate": nn.Linear(4, 1),
        "rhythm": Head(nn.Linear(4, 2), "classes", labels=("sinus", "ectopic")),
    }
    save(
        tmp_path / "folder",
        nn.LSTM(2, 4),
        heads,
        name="heart",
        version=2,
        front=FeaturesFront((0.0, 0.0), (1.0, 0.5), differences=True),
        input_name="mv",
        input_description="lead II",
        licence="MIT",
        provenance="here",
        time_step_seconds=0.01,
        extra={"epochs": 3},
    )
    spec = load(tmp_path / "folder").spec
    assert (spec.name, spec.version, spec.licence, spec.provenance) == ("heart", 2, "MIT", "here")
    assert (spec.time_step_seconds, spec.extra) == (0.01, {"epochs": 3})
    assert [(head.name, head.kind, head.width) for head in spec.heads] == [
        ("next", "quantiles", 3),
        ("rate", "regression", 1),
        ("rhythm", "classes", 2),
    ]
    assert (spec.heads[0].scale, spec.heads[0].residual_of, spec.outputs[0].description) == (2.0, "mv", "mV")
    assert [head.predicts for head in spec.heads] == ["mv", "", ""]
    assert spec.inputs[0].shape == (1,)
    assert [state.name for state in spec.states] == ["h", "c", "previous", "last.next", "last.rate", "last.rhythm"]


def test_an_embedding_makes_tokens_the_input(tmp_path: Path) -> None:
    """A character model: tokens in, logits of the next token out."""
    embedding = nn.Embedding(7, 3)
    bundle = save(tmp_path / "m", nn.GRU(3, 4), {"next": Head(nn.Linear(4, 7), "next_token")}, front=embedding)
    assert cell_model(bundle.spec).front == EmbeddingFront(7, 3)
    assert (bundle.spec.inputs[0].dtype, bundle.spec.inputs[0].shape, bundle.spec.inputs[0].limit) == ("int64", (), 7)
    np.testing.assert_array_equal(load(bundle.path).weights["embedding.weight"], embedding.weight.detach().numpy())


def test_text_and_halves_are_written(tmp_path: Path) -> None:
    """A model of text says how its tokens are read; the embedding and the module are rounded alike."""
    embedding, cell = nn.Embedding(3, 2), nn.GRU(2, 4)
    head = Head(nn.Linear(4, 3), "next_token")
    bundle = save(tmp_path / "m", cell, {"next": head}, front=embedding, text=TextSpec("words", ("a", "b", "c")), half=True)
    read = load(bundle.path)
    assert read.spec == bundle.spec
    assert read.spec.inputs[0].text == TextSpec("words", ("a", "b", "c"))
    np.testing.assert_array_equal(read.weights["embedding.weight"], embedding.weight.detach().half().float().numpy())
    np.testing.assert_array_equal(read.weights["cell.weight_hh_l0"], cell.weight_hh_l0.detach().half().float().numpy())


def test_absent_biases_are_zeros(tmp_path: Path) -> None:
    """A module without biases is one whose biases are zero."""
    weights = save(tmp_path / "m", nn.GRU(2, 4, 2, bias=False), nn.Linear(4, 1, bias=False)).weights
    for name in ("cell.bias_ih_l0", "cell.bias_hh_l1", "head.output.bias"):
        assert not weights[name].any()


def test_what_matters_only_in_training_does_not_matter(tmp_path: Path) -> None:
    """batch_first and dropout leave a step as it is; other float types are stored as float32."""
    module = nn.LSTM(2, 4, 2, batch_first=True, dropout=0.5).double()
    weights = save(tmp_path / "m", module, nn.Linear(4, 1).half()).weights
    assert {tensor.dtype for tensor in weights.values()} == {np.dtype(np.float32)}


def test_the_bundle_keeps_no_hold_on_the_module(tmp_path: Path) -> None:
    """Training on after saving does not change what was returned."""
    module = nn.RNN(1, 2)
    bundle = save(tmp_path / "m", module, nn.Linear(2, 1))
    before = bundle.weights["cell.weight_ih_l0"].copy()
    with torch.no_grad():
        module.weight_ih_l0.add_(1)
    np.testing.assert_array_equal(bundle.weights["cell.weight_ih_l0"], before)


class Gated(nn.LSTM):  # type: ignore[misc,name-defined]  # torch does not export its layers to type checkers
    """Might compute anything."""


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.LSTM(2, 4, bidirectional=True), "module.bidirectional: expected False, since a stream has no future to read"),
        (
            nn.RNN(2, 4, nonlinearity="relu"),
            "module.nonlinearity: expected tanh; save_program takes any other, within a module, got relu",
        ),
        (nn.LSTMCell(2, 4), "module: expected a torch.nn.LSTM, GRU or RNN"),
        (Gated(2, 4), "module: expected a torch.nn.LSTM, GRU or RNN"),
    ],
    ids=["bidirectional", "relu", "cell", "subclass"],
)
def test_what_a_bundle_cannot_hold_is_refused(tmp_path: Path, module: Any, message: str) -> None:
    """A module that would be computed otherwise than it was trained is never written."""
    with pytest.raises(BundleError) as refusal:
        save(tmp_path / "m", module, nn.Linear(4, 1))
    assert str(refusal.value).startswith(f"save: {message}")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("module", "head", "front"),
    [
        (nn.LSTMCell(2, 4), nn.Linear(4, 1), None),
        (nn.RNN(2, 4, nonlinearity="relu"), nn.Linear(4, 1), None),
        (nn.GRU(2, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1)), None),
        (nn.GRU(2, 4), nn.Linear(4, 1), nn.LayerNorm(2)),
        (nn.GRU(2, 4), nn.Linear(4, 1), nn.Embedding(7, 2, max_norm=1.0)),
    ],
    ids=["cell", "relu", "head", "front", "max_norm"],
)
def test_what_a_cell_cannot_be_is_sent_to_save_program(tmp_path: Path, module: Any, head: Any, front: Any) -> None:
    """Whoever has more than a cell with linear heads hears what takes it."""
    with pytest.raises(BundleError, match="save_program"):
        save(tmp_path / "m", module, head, front=front)


def test_heads_and_fronts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Names, kinds and sizes are checked as `load` checks them."""
    lstm = nn.LSTM(2, 4)
    for head, front, message in (
        (nn.Linear(5, 1), None, r"head.output.weight: expected the shape \[1, 4\], got \[1, 5\]"),
        (nn.Sequential(nn.Linear(4, 1)), None, "save: head output: expected a torch.nn.Linear, or a Head with one"),
        ({"y": Head(nn.Linear(4, 2), "quantiles", levels=(0.9, 0.1))}, None, r"heads\[0\].levels: expected ascending"),
        ({"h": nn.Linear(4, 1)}, None, "expected distinct names, got .*h twice"),
        ({}, None, "heads: expected array to have at least 1 item"),
        (nn.Linear(4, 1), FeaturesFront((0.0,), (1.0,)), "cell.input_size: expected 1, the width of front, got 2"),
        (nn.Linear(4, 1), nn.Embedding(7, 2, max_norm=1.0), "front.max_norm: expected None"),
    ):
        with pytest.raises(BundleError, match=message):
            save(tmp_path / "m", lstm, head, front=front)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("license", "save: license: expected licence, or another of the keywords name, version, front, text, "),
        ("colour", "save: colour: expected one of the keywords name, version, front, text, "),
        ("fingerprint", "save: fingerprint: expected one of the keywords name, version, front, text, "),
    ],
)
def test_an_unknown_keyword_is_refused_with_those_there_are(tmp_path: Path, keyword: str, message: str) -> None:
    """The nearest one is named, and all of them: those of `save` and those of a manifest."""
    with pytest.raises(BundleError) as refusal:
        save(tmp_path / "m", nn.LSTM(2, 4), nn.Linear(4, 1), **{keyword: "MIT"})  # type: ignore[arg-type]
    assert str(refusal.value).startswith(message)
    assert str(refusal.value).endswith("time_step_seconds, extra, got an unknown one")
    assert not (tmp_path / "m").exists()


def test_diverged_training_is_not_saved(tmp_path: Path) -> None:
    """Weights that are not finite are named while the old bundle is still there."""
    module = nn.RNN(1, 2)
    with torch.no_grad():
        module.bias_hh_l0[0] = float("nan")
    with pytest.raises(BundleError, match=r"cell.bias_hh_l0: expected finite numbers"):
        save(tmp_path / "m", module, nn.Linear(2, 1))
