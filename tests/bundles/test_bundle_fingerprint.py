"""The fingerprint changes with what is computed and with nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from stepstream_server.bundles import Bundle, load, write
from stepstream_server.bundles.declare import declare
from stepstream_server.bundles.fingerprint import TOLD, fingerprint
from stepstream_server.spec import CellSpec, FeaturesFront, HeadSpec, ModelSpec
from support.spoil import edit, random_weights

DIGEST = "0" * 64
MODELS = Path(__file__).parents[2] / "models"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "other"),
        ("version", 4),
        ("description", "Else."),
        ("licence", "MIT"),
        ("provenance", "Elsewhere."),
        ("time_step_seconds", 1.0),
        ("extra", {}),
        ("heads.0.description", "V"),
        ("heads.2.labels", ["x", "y"]),
        ("heads.0.predicts", ""),
        ("inputs.0.description", "lead I"),
        ("front.mean", [0.1, 0]),  # 0 and 0.0 are one number
    ],
)
def test_what_people_are_told_does_not_count(heart: Bundle, field: str, value: object) -> None:
    """Two bundles that compute the same have one fingerprint, whatever they are called."""
    edit(heart.path, field, value)
    assert load(heart.path).spec.fingerprint == heart.spec.fingerprint


def test_how_text_becomes_tokens_does_not_count(text: Bundle) -> None:
    """The server of a text model steps tokens, whatever they stand for."""
    edit(text.path, "inputs.0.text", None)
    assert load(text.path).spec.fingerprint == text.spec.fingerprint


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("front.mean", [0.1, 1e-9]),
        ("front.scale", [0.5, 0.26]),
        ("heads.0.scale", 2.5),
        ("heads.0.offset", 0.0),
        ("heads.0.levels", [0.1, 0.5, 0.95]),
        ("heads.0.residual_of", ""),
        ("heads.2.kind", "regression"),
    ],
)
def test_what_outputs_depend_on_counts(heart: Bundle, field: str, value: object) -> None:
    """A field that changes what a caller gets changes the fingerprint."""
    if field == "heads.2.kind":
        edit(heart.path, "heads.2.labels", [])
    edit(heart.path, field, value)
    assert load(heart.path).spec.fingerprint != heart.spec.fingerprint


def test_one_bit_of_the_weights_counts(tmp_path: Path, heart: Bundle, heart_spec: ModelSpec) -> None:
    """The smallest change of one weight is another model."""
    weights = {name: tensor.copy() for name, tensor in heart.weights.items()}
    weights["head.rate.bias"][0] = np.nextafter(weights["head.rate.bias"][0], np.float32(9))
    assert write(tmp_path / "b", heart_spec, weights).spec.fingerprint != heart.spec.fingerprint


def test_kinds_of_cell_with_equal_weights_differ() -> None:
    """The computation counts even where no size tells it apart."""
    specs = [declare("m", CellSpec(kind, 1, 2, 1), [HeadSpec("y", "regression", 1)]) for kind in ("gru", "rnn", "lstm")]
    assert len({fingerprint(spec, DIGEST) for spec in specs}) == 3


def test_a_neutral_normaliser_is_not_none() -> None:
    """A front that changes no value is still another computation: it may round."""
    cell, heads = CellSpec("gru", 1, 2, 1), [HeadSpec("y", "regression", 1)]
    plain, normalised = declare("m", cell, heads), declare("m", cell, heads, front=FeaturesFront((0.0,), (1.0,)))
    assert fingerprint(plain, DIGEST) != fingerprint(normalised, DIGEST)


def test_every_field_of_a_spec_is_decided_about() -> None:
    """A new field must be put on one side or the other, here and in the code."""
    counted = {"inputs", "outputs", "states", "computation", "heads"}
    assert {field.name for field in dataclasses.fields(ModelSpec)} == TOLD | counted


def test_it_is_the_same_everywhere(tmp_path: Path) -> None:
    """The value is part of snapshots, so it must never change for a bundle that exists."""
    spec = declare("m", CellSpec("lstm", 1, 2, 1), [HeadSpec("y", "regression", 1)])
    weights = {name: np.zeros_like(tensor) for name, tensor in random_weights(spec).items()}
    known = "8c140b2360ed4f6fcfc380c373e3baa8f01e1e5299f946be7be22e35a3180dfa"
    assert write(tmp_path / "m", spec, weights).spec.fingerprint == known


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("code", "647c7aa393e9695a87cd9304af374a6f84e822cbaf75b09bc37495e6c64df321"),
        ("ecg", "cd7276a29040c188045238d42b2c57fc3bb2bdd4f8b39246b31ee78c81a01238"),
        ("memory", "d87df00407673f111a32b16c619e48b7e970d6860d59774c244c7c0228c88ccb"),
    ],
)
def test_shipped_models_keep_theirs(name: str, known: str) -> None:
    """Snapshots that were exported from them before programs came can be imported."""
    assert load(MODELS / name).spec.fingerprint == known
