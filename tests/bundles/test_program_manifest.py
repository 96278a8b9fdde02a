"""The manifest of a program: what it may say, and what is answered when it says something else."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

import jsonschema
import numpy as np
import pytest

from stepstream_server.bundles import Bundle, BundleError, load
from stepstream_server.bundles.check import check_spec
from stepstream_server.bundles.manifest import parse
from stepstream_server.bundles.translate import to_spec, to_text
from stepstream_server.spec import GraphState, GraphTensor, HeadKind, Program, StateSpec
from support.spoil import REMOVED, edit

SCHEMA = json.loads(importlib.resources.files("stepstream_server.bundles").joinpath("manifest.schema.json").read_text())
FLAG = {"name": "flag", "tensor": "flag", "dtype": "bool", "shape": []}
SECOND = {"name": "second", "tensor": "output", "shape": [1]}

# (field to spoil, its new value, what the message says of it); refused by the schema too.
BY_SCHEMA: list[tuple[str, Any, str]] = [
    ("format_version", 3, "format_version: expected 1 or 2, got 3"),
    ("format_version", REMOVED, "format_version: expected a value, got nothing"),
    ("kind", "cell", "kind: expected 'program', got \"cell\""),
    ("name", "../voice", "name: expected string to match pattern"),
    ("inputs", [], "inputs: expected array to have at least 1 item"),
    ("inputs.0.dtype", "float64", "inputs[0].dtype: expected 'float32' or 'int32' or 'int64' or 'bool', got \"float64\""),
    ("inputs.0.dtype", REMOVED, "inputs[0].dtype: expected a value, got nothing"),
    ("inputs.0.range", REMOVED, "inputs[0].range: expected a value, got nothing"),
    ("inputs.0.range", 0, "inputs[0].range: expected greater than 0, got 0"),
    ("inputs.0.range", 1e16, "inputs[0].range: expected less than or equal to 1000000000000000, got 1e+16"),
    ("inputs.0.limit", 3, "inputs[0].limit: expected no field of this name, got 3"),
    ("inputs.0.tensor", "", "inputs[0].tensor: expected string to have at least 1 character"),
    ("inputs.0.shape", [0], "inputs[0].shape[0]: expected greater than or equal to 1, got 0"),
    ("inputs.0.shape", [1] * 9, "inputs[0].shape: expected array to have at most 8 items"),
    ("inputs.0.batch_axis", -1, "inputs[0].batch_axis: expected greater than or equal to 0, got -1"),
    ("inputs.0.carry", -1, "inputs[0].carry: expected greater than or equal to 0, got -1"),
    ("inputs.0.colour", "red", 'inputs[0].colour: expected no field of this name, got "red"'),
    ("inputs.0", FLAG | {"range": 1.0}, "inputs[0].range: expected no field of this name, got 1.0"),
    ("constants.0.value", REMOVED, "constants[0].value: expected a value, got nothing"),
    ("constants.0.value", [], "constants[0].value: expected"),
    ("constants.0.value", "16000", "constants[0].value: expected"),
    ("states.0.name", "h c", "states[0].name: expected string to match pattern"),
    ("states.0.dtype", "float16", "states[0].dtype: expected 'float32', 'int32', 'int64' or 'bool', got \"float16\""),
    ("states.0.initial", [[0]], "states[0].initial: expected"),
    ("states.0.initial", 1e39, "states[0].initial: expected"),
    ("states.0.written", REMOVED, "states[0].written: expected a value, got nothing"),
    ("outputs", [], "outputs: expected array to have at least 1 item"),
    ("outputs.0.kind", "quantile", "outputs[0].kind: expected"),
    ("outputs.0.name", "last.speech", "outputs[0].name: expected string to match pattern"),
    ("program", REMOVED, "program: expected a value, got nothing"),
    ("program.file", "../model.onnx", "program.file: expected string to match pattern"),
    ("program.file", "model.so", "program.file: expected string to match pattern"),
    ("program.sha256", "0" * 63, "program.sha256: expected string to match pattern"),
    ("program.data", [{"file": "/etc/passwd", "sha256": "0" * 64}], "program.data[0].file: expected string to match pattern"),
    ("cell", {}, "cell: expected no field of this name, got {}"),
]

# The same for what a schema cannot say: what fields must be to each other.
BY_CHECK: list[tuple[str, Any, str]] = [
    ("inputs.0.batch_axis", 2, "inputs[0].batch_axis: expected at most 1, as the shape has so many axes beside it, got 2"),
    ("inputs.0.shape", [], "inputs[0].carry: expected 0, since the shape has no axis along which to carry, got 2"),
    ("inputs.0.shape", [1 << 20] * 2, "inputs[0].shape: expected at most 16777216 numbers in all inputs, constants, states"),
    ("inputs.1", FLAG | {"tensor": "input"}, "tensors of inputs, constants and states: expected distinct names, got input twice"),
    ("inputs.1", FLAG | {"name": "speech"}, "inputs, outputs and states: expected distinct names, got speech twice"),
    ("states.0.name", "carry.audio", "inputs, outputs and states: expected distinct names, got carry.audio twice"),
    ("states.0.read", "sr", "tensors of inputs, constants and states: expected distinct names, got sr twice"),
    ("states.0.batch_axis", 3, "states[0].batch_axis: expected at most 2, as the shape has so many axes beside it, got 3"),
    ("states.0.initial", [1, 2], "states[0].initial: expected one number, or 6 as the shape says, got 2"),
    ("states.0.dtype", "int32", "states[0].initial: expected numbers of dtype int32, got 0.5"),
    ("constants.0.value", 0.5, "constants[0].value: expected numbers of dtype int64, got 0.5"),
    ("constants.0.value", [1, 2], "constants[0].value: expected one number, or 1 as the shape says, got 2"),
    ("constants.0.dtype", "bool", "constants[0].value: expected numbers of dtype bool, got 16000"),
    ("outputs.0.batch_axis", 2, "outputs[0].batch_axis: expected at most 1, as the shape has so many axes beside it, got 2"),
    ("outputs.0.dtype", "int64", "outputs[0].dtype: expected float32, since the output is of kind classes, got int64"),
    ("outputs.0.levels", [0.5], "outputs[0].levels: expected nothing, since the head's kind is classes, got [0.5]"),
    ("outputs.0.labels", ["a", "b"], "outputs[0].labels: expected 1 names, one per output, got 2"),
    ("outputs.0.predicts", "audio", "outputs[0].predicts: expected nothing, since the head's kind is classes, got"),
    ("outputs.1", SECOND | {"predicts": "audio"}, "outputs[1].shape: expected 4, the numbers of audio, which it predicts, got 1"),
    (
        "outputs.1",
        SECOND | {"predicts": "video"},
        "outputs[1].predicts: expected the name of a float32 input, of which there are",
    ),
    (
        "outputs.1",
        SECOND | {"kind": "quantiles", "levels": [0.5], "predicts": "audio"},
        "outputs[1].predicts: expected an input of 1",
    ),
    ("outputs.1", SECOND | {"kind": "next_token"}, "outputs[1].kind: expected an input of dtype int32 or int64 and of shape []"),
    ("text", "bytes", "inputs[0].text: expected nothing, since tokens are of dtype int32 or int64 and of shape [], got text for"),
]


def ids(cases: list[tuple[str, Any, str]]) -> list[str]:
    """Which field, spoilt how."""
    return [f"{field}={'removed' if value is REMOVED else value}"[:60] for field, value, _ in cases]


def accepted_by_schema(bundle: Bundle) -> bool:
    """Tells whether the manifest on disk fits the shipped schema."""
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads((bundle.path / "model.json").read_text()))


def refusal_of(bundle: Bundle) -> str:
    """The error of loading it."""
    with pytest.raises(BundleError) as refusal:
        load(bundle.path)
    return str(refusal.value)


def test_valid_manifests_are_accepted_by_both(voice: Bundle, speaker: Bundle) -> None:
    """A manifest that loads also fits the schema, and what is read is what was written."""
    for bundle in (voice, speaker):
        assert load(bundle.path).spec == bundle.spec
        assert accepted_by_schema(bundle)


@pytest.mark.parametrize(("field", "value", "message"), BY_SCHEMA, ids=ids(BY_SCHEMA))
def test_a_wrong_field_is_named(voice: Bundle, field: str, value: Any, message: str) -> None:
    """A field of wrong type or range is refused by schema and server, naming file, field, expected and actual."""
    edit(voice.path, field, value)
    assert refusal_of(voice).startswith(f"voice/model.json: {message}")
    assert not accepted_by_schema(voice)


@pytest.mark.parametrize(("field", "value", "message"), BY_CHECK, ids=ids(BY_CHECK))
def test_a_contradiction_is_named(voice: Bundle, field: str, value: Any, message: str) -> None:
    """Fields that fit the schema but not each other are refused in the same form."""
    edit(voice.path, field, value)
    assert accepted_by_schema(voice)
    assert refusal_of(voice).startswith(f"voice/model.json: {message}")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("inputs.0.limit", 4, "inputs[0].limit: expected 5, the numbers of next, got 4"),
        ("inputs.0.limit", REMOVED, "inputs[0].limit: expected 5, the numbers of next, got 0"),
        (
            "inputs.0.shape",
            [1],
            "outputs[0].kind: expected an input of dtype int32 or int64 and of shape [], since the next token",
        ),
        ("inputs.1", FLAG, "outputs[0].kind: expected a model of one input, since it is stepped on, got 2"),
        (
            "outputs.1",
            {"name": "b", "tensor": "logits", "shape": [5], "kind": "next_token"},
            "outputs[1].kind: expected regression",
        ),
        ("inputs.0.text", {"codec": "bytes"}, "inputs[0].limit: expected 256, one per byte, since text is bytes, got 5"),
        ("inputs.0.text.vocabulary", ["a"], "inputs[0].text.vocabulary: expected 5 words, one per token, got 1"),
        ("outputs.0.stop", [[5]], "outputs[0].stop[0]: expected tokens below 5, got 5"),
        ("states.0.initial", 1 << 31, "states[0].initial: expected numbers of dtype int32, got 2147483648"),
    ],
)
def test_tokens_must_fit(speaker: Bundle, field: str, value: Any, message: str) -> None:
    """The token input and the output of tokens agree on how many there are, and nothing else is stepped on."""
    edit(speaker.path, field, value)
    assert refusal_of(speaker).startswith(f"speaker/model.json: {message}")


def test_a_model_without_memory_is_refused(voice: Bundle) -> None:
    """Sessions keep something."""
    edit(voice.path, "states", [])
    edit(voice.path, "inputs.0.carry", REMOVED)
    assert refusal_of(voice).startswith("voice/model.json: states: expected at least one, or an input that carries")


def test_what_is_carried_and_fed_back_is_remembered_behind_the_states_of_the_graph(voice: Bundle, speaker: Bundle) -> None:
    """In the order that snapshots keep; each in the shape and dtype of what it holds."""
    assert [(each.name, each.shape, each.dtype) for each in voice.spec.states] == [
        ("state", (2, 3), "float32"),
        ("carry.audio", (2,), "float32"),
    ]
    assert [(each.name, each.shape) for each in speaker.spec.states] == [("before", ()), ("last.next", (5,))]


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (0, ()),
        (REMOVED, ()),
        ([0.0] * 6, ()),
        (-0.0, ()),
        (2, (2.0,) * 6),
        ([1, 0, 0, 0, 0, 1e-3], (1.0, 0.0, 0.0, 0.0, 0.0, 1e-3)),
    ],
)
def test_a_state_begins_with_zeros_one_number_or_all_of_them(voice: Bundle, given: Any, value: tuple[float, ...]) -> None:
    """Zeros are told in one way, however they are written, so that fingerprints agree."""
    edit(voice.path, "states.0.initial", given)
    state = load(voice.path).spec.states[0]
    assert state.initial == value
    np.testing.assert_array_equal(state.initial_value.ravel(), np.array(value or (0,) * 6, np.float32))


@pytest.mark.parametrize(
    ("dtype", "given", "value"), [("int64", (1 << 62) + 1, (1 << 62) + 1), ("bool", True, 1), ("bool", 1, 1)]
)
def test_whole_numbers_are_exact(speaker: Bundle, dtype: str, given: object, value: int) -> None:
    """An int64 beyond what a float holds is not rounded; truth may be told as such."""
    tree = json.loads((speaker.path / "model.json").read_text())
    tree["states"][0] |= {"dtype": dtype, "initial": given}
    spec = to_spec(parse(json.dumps(tree), "m"), "")
    check_spec(spec, "m")
    assert spec.states[0].initial_value.item() == value
    assert to_spec(parse(to_text(spec, "model.onnx", "0" * 64, "m"), "m"), "") == spec


@pytest.mark.parametrize(
    ("shape", "carry", "kind", "predicts", "message"),
    [
        ((), 0, "regression", "x", None),
        ((2,), 3, "regression", "x", None),
        ((2,), 0, "regression", "y", "m: outputs[0].predicts: expected the name of a float32 input"),
    ],
)
def test_a_prediction_is_stepped_on(
    voice: Bundle, shape: tuple[int, ...], carry: int, kind: HeadKind, predicts: str, message: str | None
) -> None:
    """An output of the input's shape is remembered and fed back, whether or not the input carries."""
    tree = json.loads((voice.path / "model.json").read_text())
    tree["inputs"][0] |= {"name": "x", "shape": shape, "carry": carry}
    tree["outputs"][0] = {"name": "y", "tensor": "output", "shape": shape, "kind": kind, "predicts": predicts}
    spec = to_spec(parse(json.dumps(tree), "m"), "")
    if message:
        with pytest.raises(BundleError) as refusal:
            check_spec(spec, "m")
        assert str(refusal.value).startswith(message)
        return
    check_spec(spec, "m")
    assert spec.states[-1] == StateSpec("last.y", shape)


def test_defaults_need_not_be_written(voice: Bundle) -> None:
    """The least that a manifest must say."""
    tree = {
        "format_version": 2,
        "kind": "program",
        "name": "least",
        "inputs": [{"name": "x", "tensor": "input", "dtype": "float32", "shape": [4], "range": 2}],
        "states": [{"name": "h", "read": "a", "written": "b", "shape": [3]}],
        "outputs": [{"name": "y", "tensor": "output", "shape": [1]}],
        "program": {"file": "model.onnx", "sha256": "0" * 64},
    }
    spec = to_spec(parse(json.dumps(tree), "m"), "")
    check_spec(spec, "m")
    assert spec.computation == Program((GraphTensor("input"),), (0,), (GraphState("a", "b"),), (GraphTensor("output"),))
    assert (spec.heads[0].kind, spec.inputs[0].range, spec.states) == ("regression", 2.0, (StateSpec("h", (3,)),))


def test_one_output_of_the_graph_may_serve_several_entries(voice: Bundle) -> None:
    """A state may be an output too."""
    edit(voice.path, "outputs.1", {"name": "memory", "tensor": "stateN", "shape": [2, 3], "batch_axis": 1})
    assert load(voice.path).spec.outputs[1].shape == (2, 3)
