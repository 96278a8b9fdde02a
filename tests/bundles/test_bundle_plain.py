"""A module that applies more than its weights is refused with what to do, wherever it stands; once that is done, it is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepstream_server.bundles import Head, load, save
from stepstream_server.errors import BundleError

torch = pytest.importorskip("torch")
nn = torch.nn
prune, parametrize = pytest.importorskip("torch.nn.utils.prune"), pytest.importorskip("torch.nn.utils.parametrize")

# Where a module may stand: the field by which `save` calls it, its class with its sizes, its first weight.
PLACES: dict[str, tuple[Any, tuple[int, ...], str]] = {
    "module": (nn.LSTM, (3, 4), "weight_hh_l0"),
    "head output": (nn.Linear, (4, 2), "weight"),
    "front": (nn.Linear, (3, 3), "weight"),
    "front of tokens": (nn.Embedding, (7, 3), "weight"),
}


class Doubled:
    """Mixed into a class of torch, it gives twice what the weights say."""

    def forward(self, *args: Any) -> Any:
        return 2 * super().forward(*args)  # type: ignore[misc]  # of the class that it is mixed into


def doubled(module: Any) -> Any:
    """A module as it is, but of a subclass."""
    module.__class__ = type("Doubled", (Doubled, type(module)), {})
    return module


def plain_again(module: Any) -> None:
    """The class that `doubled` extends."""
    module.__class__ = type(module).__mro__[2]


def save_at(folder: Path, place: str, module: Any) -> None:
    """Saves a model with the module at its place, and plain ones elsewhere."""
    parts = {"module": nn.GRU(3, 4), "head output": nn.Linear(4, 2), "front": None} | {place.removesuffix(" of tokens"): module}
    save(folder, parts["module"], parts["head output"], front=parts["front"])


SPOILT: dict[str, tuple[Callable[[Any, str], Any], str, Callable[[Any, str], Any]]] = {
    "subclass": (lambda m, w: doubled(m), "", lambda m, w: plain_again(m)),
    "hook": (
        lambda m, w: setattr(m, "handle", m.register_forward_hook(lambda m, x, y: y)),
        "expected no hook around forward; call remove() of the handle",
        lambda m, w: m.handle.remove(),
    ),
    "pre-hook": (
        lambda m, w: setattr(m, "handle", m.register_forward_pre_hook(lambda m, x: None)),
        "expected no hook around forward; call remove() of the handle",
        lambda m, w: m.handle.remove(),
    ),
    "parametrised": (
        torch.nn.utils.parametrizations.weight_norm,
        "expected a plain weight; call torch.nn.utils.parametrize.remove_parametrizations(module, '{weight}')",
        parametrize.remove_parametrizations,
    ),
    "pruned": (
        lambda m, w: prune.l1_unstructured(m, w, 3),
        "expected no hook around forward; call torch.nn.utils.prune.remove(module, '{weight}')",
        prune.remove,
    ),
    "pruned twice": (
        lambda m, w: [prune.l1_unstructured(m, w, 1), prune.random_unstructured(m, w, 1)],
        "expected no hook around forward; call torch.nn.utils.prune.remove(module, '{weight}')",
        prune.remove,
    ),
    "weight norm": (
        torch.nn.utils.weight_norm,
        "expected no hook around forward; call torch.nn.utils.remove_weight_norm(module, '{weight}')",
        torch.nn.utils.remove_weight_norm,
    ),
    "spectral norm": (
        torch.nn.utils.spectral_norm,
        "expected no hook around forward; call torch.nn.utils.remove_spectral_norm(module, '{weight}')",
        torch.nn.utils.remove_spectral_norm,
    ),
    "own forward": (
        lambda m, w: setattr(m, "forward", lambda x: x),
        "expected the forward of torch.nn.modules.",
        lambda m, w: delattr(m, "forward"),
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_more_than_its_weights_is_refused_until_it_is_not(tmp_path: Path, place: str, spoilt: str) -> None:
    """The refusal names the place and the remedy, nothing is written, and the remedy helps."""
    make, sizes, weight = PLACES[place]
    spoil, message, mend = SPOILT[spoilt]
    module = make(*sizes)
    spoil(module, weight)
    with pytest.raises(BundleError) as refusal:
        save_at(tmp_path / "m", place, module)
    assert str(refusal.value).startswith(f"save: {place.removesuffix(' of tokens')}")
    assert message.format(weight=weight) in str(refusal.value)
    assert not (tmp_path / "m").exists()
    mend(module, weight)
    save_at(tmp_path / "m", place, module)
    assert (tmp_path / "m").exists()


@pytest.mark.parametrize("place", PLACES)
def test_a_subclass_is_named_beside_what_is_expected(tmp_path: Path, place: str) -> None:
    """With its module, since it may have the very name of the class that it extends."""
    make, sizes, _ = PLACES[place]
    expected = {
        "module": "save: module: expected a torch.nn.LSTM, GRU or RNN itself",
        "head output": "save: head output: expected a torch.nn.Linear, or a Head with one; no subclass",
        "front": "save: front: expected a FeaturesFront, a fitted scaler (mean_ and scale_), a torch.nn.Linear itself",
    }[place.removesuffix(" of tokens")]
    with pytest.raises(BundleError) as refusal:
        save_at(tmp_path / "m", place, doubled(make(*sizes)))
    assert str(refusal.value).startswith(expected)
    assert str(refusal.value).endswith(f"got {__name__}.Doubled")


def test_what_was_pruned_is_saved_with_its_zeros(tmp_path: Path) -> None:
    """Once the mask is part of the weight, the bundle has what the masked head applied."""
    head = nn.Linear(4, 2)
    prune.l1_unstructured(head, "weight", 3)
    applied = head.weight.detach().numpy().copy()
    prune.remove(head, "weight")
    save(tmp_path / "m", nn.GRU(3, 4), head)
    np.testing.assert_array_equal(load(tmp_path / "m").weights["head.output.weight"], applied)
    assert (applied == 0).sum() == 3


def sparse_head() -> Any:
    """A weight of which torch keeps what is not zero."""
    head = nn.Linear(4, 1)
    head.weight = nn.Parameter(head.weight.detach().to_sparse())
    return head


def tensor_of_its_own() -> Any:
    """A weight whose class could multiply in any way, as those of quantising libraries do."""
    head = nn.Linear(4, 1)
    kind = type("Packed", (torch.Tensor,), {})
    head.weight = nn.Parameter(torch.ones(1, 4).as_subclass(kind))
    return head


@pytest.mark.parametrize(
    ("module", "head", "front", "message"),
    [
        (
            None,
            nn.LazyLinear(1),
            None,
            "save: head output: expected a module that has weights; call it once on an input, got torch.nn",
        ),
        (
            None,
            nn.Linear(4, 1, device="meta"),
            None,
            "save: head.output.weight: expected numbers; move the module off the meta device",
        ),
        (nn.LSTM(2, 4, device="meta"), None, None, "save: module.weight_ih_l0: expected numbers; move the module off the meta"),
        (None, None, nn.Linear(2, 2, device="meta"), "save: front.weight: expected numbers; move the module off the meta device"),
        (
            None,
            None,
            nn.Embedding(7, 2, device="meta"),
            "save: front.weight: expected numbers; move the module off the meta device",
        ),
        (
            None,
            nn.Linear(4, 1, dtype=torch.complex64),
            None,
            "save: head.output.weight: expected a dense tensor of a float type, got ",
        ),
        (None, sparse_head(), None, "save: head.output.weight: expected a dense tensor of a float type, got torch.sparse_coo"),
        (None, tensor_of_its_own(), None, "save: head.output.weight: expected a plain tensor or Parameter of its numbers, got "),
        (None, None, nn.LayerNorm(2), "save: front: expected a FeaturesFront, a fitted scaler"),
        (None, None, nn.Sequential(nn.Linear(2, 2)), "save: front: expected a FeaturesFront, a fitted scaler"),
        (None, None, [nn.Linear(2, 2)], "save: front: expected a FeaturesFront, a fitted scaler"),
        (None, None, nn.Embedding, "save: front: expected a FeaturesFront, a fitted scaler"),
        (None, None, np.zeros(2), "save: front: expected a FeaturesFront, a fitted scaler"),
        (None, {"y": Head(nn.Identity())}, None, "save: head y: expected a torch.nn.Linear, or a Head with one"),
        (None, [nn.Linear(4, 1)], None, "save: head output: expected a torch.nn.Linear, or a Head with one"),
        ("lstm", None, None, "save: module: expected a torch.nn.LSTM, GRU or RNN itself"),
    ],
)
def test_what_has_no_plain_weights_is_refused(tmp_path: Path, module: Any, head: Any, front: Any, message: str) -> None:
    """Modules without numbers, with numbers of another form, and what is no such module at all."""
    with pytest.raises(BundleError) as refusal:
        save(tmp_path / "m", module or nn.LSTM(2, 4), head or nn.Linear(4, 1), front=front)
    assert str(refusal.value).startswith(message)
    assert not (tmp_path / "m").exists()


def test_what_does_not_change_a_step_is_taken(tmp_path: Path) -> None:
    """Hooks of the backward pass and of saving, a padding row, gradients scaled or switched off."""
    lstm, head = nn.LSTM(3, 4), nn.Linear(4, 7)
    embedding = nn.Embedding(7, 3, padding_idx=0, scale_grad_by_freq=True)
    for module in (lstm, head, embedding):
        module.register_full_backward_hook(lambda *args: None)
        module.register_state_dict_post_hook(lambda *args: None)
        module.requires_grad_(False)
    weights = save(tmp_path / "m", lstm, {"next": Head(head, "next_token")}, front=embedding).weights
    np.testing.assert_array_equal(weights["embedding.weight"], embedding.weight.numpy())


def test_a_bias_that_is_no_parameter_is_saved(tmp_path: Path) -> None:
    """A weight is what `forward` reads, whether or not it was registered."""
    lstm, head = nn.LSTM(3, 4), nn.Linear(4, 1)
    for module, name in ((lstm, "bias_ih_l0"), (head, "bias")):
        tensor = getattr(module, name).detach() + 1
        delattr(module, name)
        setattr(module, name, tensor)
    weights = save(tmp_path / "m", lstm, head).weights
    np.testing.assert_array_equal(weights["cell.bias_ih_l0"], lstm.bias_ih_l0.numpy())
    np.testing.assert_array_equal(weights["head.output.bias"], head.bias.numpy())
