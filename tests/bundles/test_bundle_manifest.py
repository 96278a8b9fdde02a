"""What a manifest may say, and what is answered when it says something else."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings, strategies

from stepstream_server.bundles import Bundle, load
from stepstream_server.bundles.check import check_spec
from stepstream_server.bundles.declare import declare
from stepstream_server.bundles.manifest import parse, schema_text
from stepstream_server.bundles.translate import to_spec, to_text
from stepstream_server.errors import BundleError
from stepstream_server.spec import CellSpec, EmbeddingFront, HeadKind, HeadSpec, TextSpec
from support.spoil import REMOVED, edit

SCHEMA = json.loads(importlib.resources.files("stepstream_server.bundles").joinpath("manifest.schema.json").read_text())

# (field to spoil, its new value, what the message says of it); refused by the schema too.
BY_SCHEMA: list[tuple[str, Any, str]] = [
    ("format_version", 3, "format_version: expected 1 or 2, got 3"),
    ("format_version", REMOVED, "format_version: expected a value, got nothing"),
    ("name", "", "name: expected string to match pattern"),
    ("name", "../heart", "name: expected string to match pattern"),
    ("name", REMOVED, "name: expected a value, got nothing"),
    ("version", 0, "version: expected greater than or equal to 1, got 0"),
    ("version", 1 << 32, "version: expected less than or equal to"),
    ("version", "1", 'version: expected a valid integer, got "1"'),
    ("version", True, "version: expected a valid integer, got true"),
    ("description", 7, "description: expected a valid string, got 7"),
    ("licence", None, "licence: expected a valid string, got null"),
    ("provenance", [], "provenance: expected a valid string, got []"),
    ("time_step_seconds", 0, "time_step_seconds: expected greater than 0, got 0"),
    ("time_step_seconds", "1 s", "time_step_seconds: expected a valid number"),
    ("cell", REMOVED, "cell: expected a value, got nothing"),
    ("cell.kind", "lstmp", "cell.kind: expected 'lstm', 'gru' or 'rnn', got \"lstmp\""),
    ("cell.input_size", 0, "cell.input_size: expected greater than or equal to 1, got 0"),
    ("cell.hidden_size", 10**12, "cell.hidden_size: expected less than or equal to 16384, got 1000000000000"),
    ("cell.hidden_size", 4.5, "cell.hidden_size: expected a valid integer"),
    ("cell.layers", 1000, "cell.layers: expected less than or equal to 64, got 1000"),
    ("cell.bidirectional", True, "cell.bidirectional: expected no field of this name, got true"),
    ("front.kind", "wavelet", "front.kind: expected 'features' or 'embedding', got \"wavelet\""),
    ("front.kind", REMOVED, "front.kind: expected a value, got nothing"),
    ("front", 5, "front: expected"),
    ("front", [], "front: expected"),
    ("front.mean", [], "front.mean: expected array to have at least 1 item"),
    ("front.mean.1", "0", "front.mean[1]: expected a valid number"),
    ("front.scale.0", 1e39, "front.scale[0]: expected less than or equal to"),
    ("front.scale", REMOVED, "front.scale: expected a value, got nothing"),
    ("front.differences", 1, "front.differences: expected a valid boolean, got 1"),
    ("front.tokens", 5, "front.tokens: expected no field of this name, got 5"),
    ("heads", [], "heads: expected array to have at least 1 item"),
    ("heads.0.name", "last.next", "heads[0].name: expected string to match pattern"),
    ("heads.0.kind", "quantile", "heads[0].kind: expected"),
    ("heads.0.width", 0, "heads[0].width: expected greater than or equal to 1, got 0"),
    ("heads.0.levels", [0, 0.5, 0.9], "heads[0].levels[0]: expected greater than 0, got 0"),
    ("heads.0.levels", [0.1, 0.5, 1], "heads[0].levels[2]: expected less than 1, got 1"),
    ("heads.2.labels.0", 1, "heads[2].labels[0]: expected a valid string, got 1"),
    ("heads.1.scale", "60", "heads[1].scale: expected a valid number"),
    ("heads.1.offset", 1e39, "heads[1].offset: expected less than or equal to"),
    ("heads.1.bias", 1.0, "heads[1].bias: expected no field of this name, got 1.0"),
    ("inputs.0.dtype", "float64", "inputs[0].dtype: expected 'float32' or 'int64', got \"float64\""),
    ("inputs.0.shape", [0], "inputs[0].shape[0]: expected greater than or equal to 1, got 0"),
    ("inputs.0.limit", -1, "inputs[0].limit: expected greater than or equal to 0, got -1"),
    ("inputs", [], "inputs: expected array to have at least 1 item"),
    ("inputs.1", {"name": "b", "dtype": "float32", "shape": [1]}, "inputs: expected array to have at most 1 item"),
    ("outputs.0.dtype", "int64", "outputs[0].dtype: expected 'float32', got \"int64\""),
    ("outputs", REMOVED, "outputs: expected a value, got nothing"),
    ("states.0.shape", 8, "states[0].shape: expected a valid array, got 8"),
    ("states.0.name", "h c", "states[0].name: expected string to match pattern"),
    ("weights", REMOVED, "weights: expected a value, got nothing"),
    ("weights.file", "../heart/model.safetensors", "weights.file: expected string to match pattern"),
    ("weights.file", "/etc/model.safetensors", "weights.file: expected string to match pattern"),
    ("weights.file", "..safetensors", "weights.file: expected string to match pattern"),
    ("weights.file", "model.pkl", "weights.file: expected string to match pattern"),
    ("weights.sha256", "0" * 63, "weights.sha256: expected string to match pattern"),
    ("heads.0.predicts", 1, "heads[0].predicts: expected a valid string, got 1"),
    ("text", "chars", "text: expected 'bytes' or 'words', got \"chars\""),
    ("extra", [], "extra: expected an object, got []"),
    ("colour", "red", 'colour: expected no field of this name, got "red"'),
]

# The same for what a schema cannot say: what fields must be to each other.
BY_CHECK: list[tuple[str, Any, str]] = [
    ("cell.input_size", 3, "cell.input_size: expected 2, the width of front, got 3"),
    ("front", REMOVED, "cell.input_size: expected 1, the width of inputs[0].shape, got 2"),
    ("front.mean", [0.0, 0.0, 0.0], "front.scale: expected 3 numbers, one per mean, got 2"),
    ("front.scale", [1.0], "front.scale: expected 2 numbers, one per mean, got 1"),
    ("front.scale", [0.5, 0], "front.scale[1]: expected a number other than 0 in float32, got 0.0"),
    ("front.scale", [0.5, 1e-300], "front.scale[1]: expected a number other than 0 in float32, got 1e-300"),
    ("front.differences", False, "inputs[0].shape: expected [2], got [1]"),
    ("inputs.0.dtype", "int64", 'inputs[0].dtype: expected "float32", got "int64"'),
    ("inputs.0.shape", [2], "inputs[0].shape: expected [1], got [2]"),
    ("inputs.0.limit", 7, "inputs[0].limit: expected 0, got 7"),
    ("inputs.0.name", "mV", "heads[0].residual_of: expected the name of a float32 input, of which there are ['mV'], got \"mv\""),
    ("heads.0.residual_of", "next", "heads[0].residual_of: expected the name of a float32 input"),
    ("heads.0.levels", [0.9, 0.5, 0.1], "heads[0].levels: expected ascending numbers in (0, 1), got [0.9, 0.5, 0.1]"),
    ("heads.0.levels", [0.1, 0.1, 0.9], "heads[0].levels: expected ascending numbers in (0, 1), got [0.1, 0.1, 0.9]"),
    ("heads.0.levels", [0.1, 0.9], "heads[0].levels: expected 3 numbers, one per output, got [0.1, 0.9]"),
    ("heads.0.levels", REMOVED, "heads[0].levels: expected 3 numbers, one per output, got []"),
    ("heads.0.labels", ["a", "b", "c"], "heads[0].labels: expected nothing, since the head's kind is quantiles"),
    ("heads.1.levels", [0.5], "heads[1].levels: expected nothing, since the head's kind is regression, got [0.5]"),
    ("heads.1.scale", 0, "heads[1].scale: expected a number other than 0 in float32, got 0.0"),
    ("heads.1.width", 2, "outputs[1]: expected rate [2], got rate [1]"),
    ("heads.2.labels", ["sinus"], "heads[2].labels: expected 2 names, one per output, got"),
    ("heads.2.labels", ["sinus", "sinus"], "heads[2].labels: expected distinct names, got"),
    ("heads.2.residual_of", "mv", "heads[2].residual_of: expected nothing, since the head's kind is classes"),
    (
        "heads.0.predicts",
        "rate",
        "heads[0].predicts: expected the name of a float32 input, of which there are ['mv'], got \"rate\"",
    ),
    ("heads.1.predicts", "mv", 'heads[1].predicts: expected nothing, since heads[0] has it, got "mv"'),
    ("heads.2.predicts", "mv", 'heads[2].predicts: expected nothing, since the head\'s kind is classes, got "mv"'),
    ("text", "bytes", "inputs[0].text: expected nothing, since tokens are of dtype int32 or int64 and of shape [], got text"),
    ("heads.1.kind", "next_token", "heads[1].kind: expected a front of kind embedding, since the next token is stepped on"),
    ("heads.1.name", "next", "outputs[1]: expected next [1], got"),
    ("outputs.0.shape", [4], "outputs[0]: expected next [3], got"),
    ("outputs.0.name", "later", "outputs[0]: expected next [3], got"),
    ("outputs.2", REMOVED, "outputs: expected 3: next, rate, rhythm, got"),
    ("states.0.shape", [2, 5], "states[0]: expected h [2, 4], got"),
    ("states.1", REMOVED, "states[1]: expected c [2, 4], got"),
    ("states.5", REMOVED, "states: expected 6: h, c, previous, last.next, last.rate, last.rhythm, got"),
    ("states.6", {"name": "more", "shape": [1]}, "states: expected 6: h, c, previous"),
    ("cell.kind", "gru", "states[1]: expected previous [1], got"),
    ("cell.layers", 1, "states[0]: expected h [1, 4], got"),
]


def ids(cases: list[tuple[str, Any, str]]) -> list[str]:
    """Which field, spoilt how."""
    return [f"{field}={'removed' if value is REMOVED else value}" for field, value, _ in cases]


def accepted_by_schema(bundle: Bundle) -> bool:
    """Whether the manifest on disk fits the shipped schema."""
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads((bundle.path / "model.json").read_text()))


def test_shipped_schema_is_the_one_that_validation_follows() -> None:
    """The schema file is generated from the records that check manifests, and is itself a valid schema."""
    assert json.loads(schema_text()) == SCHEMA
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_valid_manifests_are_accepted_by_both(heart: Bundle, text: Bundle) -> None:
    """A manifest that loads also fits the schema."""
    for bundle in (heart, text):
        assert load(bundle.path).spec == bundle.spec
        assert accepted_by_schema(bundle)


@pytest.mark.parametrize(("field", "value", "message"), BY_SCHEMA, ids=ids(BY_SCHEMA))
def test_a_wrong_field_is_named(heart: Bundle, field: str, value: Any, message: str) -> None:
    """A field of wrong type or range is refused by schema and server, naming file, field, expected and actual."""
    edit(heart.path, field, value)
    with pytest.raises(BundleError) as refusal:
        load(heart.path)
    assert str(refusal.value).startswith(f"heart/model.json: {message}")
    assert "; " not in str(refusal.value)  # one mistake, one complaint
    assert not accepted_by_schema(heart)


@pytest.mark.parametrize(("field", "value", "message"), BY_CHECK, ids=ids(BY_CHECK))
def test_a_contradiction_is_named(heart: Bundle, field: str, value: Any, message: str) -> None:
    """Fields that fit the schema but not each other are refused in the same form."""
    edit(heart.path, field, value)
    assert accepted_by_schema(heart)
    with pytest.raises(BundleError) as refusal:
        load(heart.path)
    assert str(refusal.value).startswith(f"heart/model.json: {message}")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("front.tokens", 6, "inputs[0].limit: expected 6, got 5"),
        ("front.width", 2, "cell.input_size: expected 2, the width of front, got 3"),
        ("inputs.0.dtype", "float32", 'inputs[0].dtype: expected "int64", got "float32"'),
        ("inputs.0.shape", [1], "inputs[0].shape: expected [], got [1]"),
        ("heads.0.width", 4, "heads[0].labels: expected 4 names, one per output, got"),
        ("front.mean", [0.0], "front.mean: expected no field of this name, got [0.0]"),
        ("text", "bytes", 'text: expected nothing, since inputs[0].text says it, got "bytes"'),
        ("inputs.0.text", {"codec": "bytes"}, "inputs[0].limit: expected 256, one per byte, since text is bytes, got 5"),
        ("inputs.0.text.codec", "bytes", "inputs[0].text.vocabulary: expected nothing, since text is bytes, got"),
        ("inputs.0.text.vocabulary", ["a"], "inputs[0].text.vocabulary: expected 5 words, one per token, got 1"),
        ("inputs.0.text.vocabulary.1", "", "inputs[0].text.vocabulary[1]: expected one or more characters, none of them white"),
        ("inputs.0.text.vocabulary.1", "b c", "inputs[0].text.vocabulary[1]: expected one or more characters, none of them"),
        ("inputs.0.text.vocabulary.1", "a", "inputs[0].text.vocabulary: expected distinct names, got a twice"),
        ("inputs.0.text.unknown", "<unk>", 'inputs[0].text.unknown: expected an entry of the vocabulary, got "<unk>"'),
        ("inputs.0.text.space", "_", 'inputs[0].text.space: expected nothing, since text is words, got "_"'),
        ("inputs.0.text.codec", "pieces", "inputs[0].text.space: expected one character that is no white space, such as"),
        ("heads.0.stop", [[1], [2, 5]], "heads[0].stop[1]: expected tokens below 5, got 5"),
        ("heads.0.predicts", "token", "heads[0].predicts: expected nothing, since the head's kind is next_token, got"),
    ],
)
def test_an_embedding_must_fit_its_tokens(text: Bundle, field: str, value: Any, message: str) -> None:
    """The token input, the embedding and the next-token head agree on how many tokens there are."""
    edit(text.path, field, value)
    with pytest.raises(BundleError) as refusal:
        load(text.path)
    assert str(refusal.value).startswith(f"text/model.json: {message}")


def test_a_next_token_head_is_as_wide_as_the_vocabulary(text: Bundle) -> None:
    """A next-token head of another width could not be stepped on."""
    edit(text.path, "inputs.0.text", REMOVED)
    edit(text.path, "heads.0.labels", REMOVED)
    edit(text.path, "heads.0.width", 4)
    with pytest.raises(BundleError, match=r"heads\[0\].width: expected 5, the tokens of the embedding, got 4"):
        load(text.path)


def test_earlier_bundles_mean_what_they_meant(text: Bundle) -> None:
    """Their text stood beside the inputs, its words were the labels of what is drawn, and the fingerprint is that of before."""
    edit(text.path, "inputs.0.text", REMOVED)
    edit(text.path, "text", "words")
    assert load(text.path).spec == text.spec
    edit(text.path, "heads.0.labels", REMOVED)
    with pytest.raises(BundleError, match=r"inputs\[0\].text.vocabulary: expected 5 words, one per token, got 0"):
        load(text.path)


@pytest.mark.parametrize("head", [HeadSpec("score", "regression", 1), HeadSpec("mood", "classes", 2, labels=("good", "bad"))])
def test_text_goes_with_any_head(head: HeadSpec) -> None:
    """A model that reads need not write."""
    words = TextSpec("words", ("a", "b", "<unk>"), unknown="<unk>", lower=True)
    spec = declare("m", CellSpec("gru", 3, 2, 1), [head], front=EmbeddingFront(3, 3), text=words)
    check_spec(spec, "m")
    assert to_spec(parse(to_text(spec, "m.safetensors", "0" * 64, "m"), "m"), "") == spec


def test_numbers_have_no_text() -> None:
    """Nobody could say which."""
    spec = declare("m", CellSpec("gru", 3, 2, 1), [HeadSpec("y", "regression", 1)], text=TextSpec("bytes"))
    with pytest.raises(BundleError, match=r"inputs\[0\].text: expected nothing, since tokens are of dtype int32 or int64"):
        check_spec(spec, "m")


@pytest.mark.parametrize(("field", "value"), [("stop", [[1]]), ("temperature", 0.0)])
def test_only_tokens_are_drawn_as_the_author_chose(heart: Bundle, field: str, value: Any) -> None:
    """A head of numbers has neither stops nor a temperature."""
    edit(heart.path, f"heads.0.{field}", value)
    with pytest.raises(BundleError, match=rf"heads\[0\].{field}: expected nothing, since the head's kind is "):
        load(heart.path)


@pytest.mark.parametrize(
    ("kind", "width", "levels", "inputs", "message"),
    [
        ("regression", 2, (), 2, None),
        ("regression", 1, (), 2, "heads[0].width: expected 2, the numbers of x, which it predicts, got 1"),
        ("quantiles", 2, (0.1, 0.9), 1, None),
        ("quantiles", 2, (0.1, 0.9), 2, "heads[0].predicts: expected an input of 1 number, since quantiles are of one, got 2"),
    ],
)
def test_a_prediction_can_be_stepped_on(
    kind: HeadKind, width: int, levels: tuple[float, ...], inputs: int, message: str | None
) -> None:
    """What a head predicts is as wide as what a step takes; quantiles are of one number."""
    head = HeadSpec("y", kind, width, levels=levels, predicts="x")
    spec = declare("m", CellSpec("gru", inputs, 2, 1), [head], input_name="x")
    if message is None:
        check_spec(spec, "m")
        return
    with pytest.raises(BundleError) as refusal:
        check_spec(spec, "m")
    assert str(refusal.value) == f"m: {message}"


def test_bytes_have_256_tokens() -> None:
    """A model of bytes needs no labels."""
    head = HeadSpec("next", "next_token", 256)
    check_spec(declare("m", CellSpec("gru", 3, 2, 1), [head], front=EmbeddingFront(256, 3), text=TextSpec("bytes")), "m")


@pytest.mark.parametrize("taken", ["rate", "h", "mv"])
def test_names_of_tensors_are_distinct(heart: Bundle, taken: str) -> None:
    """Inputs, outputs and states share one set of names."""
    for field in ("heads.0.name", "outputs.0.name"):
        edit(heart.path, field, taken)
    edit(heart.path, "states.3.name", f"last.{taken}")
    with pytest.raises(BundleError, match=f"expected distinct names, got .*{taken} twice"):
        load(heart.path)


def test_half_of_the_features_are_differences(heart: Bundle) -> None:
    """An odd number of features cannot be values and their changes."""
    for field in ("front.mean", "front.scale"):
        edit(heart.path, field, [1.0, 1.0, 1.0])
    with pytest.raises(BundleError, match=r"front.mean: expected an even number, since half .*, got 3"):
        load(heart.path)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a JSON tree."""
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*path, key))


def with_value(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the tree in which one place has another value."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[path[0]] = with_value(tree[path[0]], path[1:], value)
    return copy


JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats(allow_nan=False) | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(), inner, max_size=3),
    max_leaves=4,
)


@settings(derandomize=True, max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=strategies.data())
def test_any_value_anywhere_is_accepted_or_refused(heart: Bundle, data: strategies.DataObject) -> None:
    """Whatever stands in a manifest, reading it ends in a spec that fits the schema or in a BundleError, never in a crash."""
    tree = json.loads((heart.path / "model.json").read_text())
    path = data.draw(strategies.sampled_from(list(places(tree))))
    spoilt = with_value(tree, path, data.draw(JSON))
    try:
        manifest = parse(json.dumps(spoilt), "heart/model.json")
        check_spec(to_spec(manifest, ""), "heart/model.json")
    except BundleError:
        return
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(spoilt)


def test_several_wrong_fields_are_told_at_once(heart: Bundle) -> None:
    """The author hears of more than the first mistake."""
    edit(heart.path, "version", 0)
    edit(heart.path, "cell.layers", 0)
    with pytest.raises(BundleError, match=r"version: expected .*, got 0; cell.layers: expected .*, got 0"):
        load(heart.path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "expected JSON"),
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        (b"\xff\xfe\x00", "expected JSON"),
        ('{"name": "a", "name": "b"}', 'expected JSON, got the key "name" twice in one object'),
        ('{"time_step_seconds": NaN}', "expected JSON, got NaN"),
        ("9" * 5000, "expected JSON"),
        ("[]", "(root): expected"),
        ("null", "(root): expected"),
    ],
    ids=["empty", "cut", "deep", "binary", "duplicate key", "NaN", "long number", "array", "null"],
)
def test_what_is_no_manifest_is_refused(source: str | bytes, message: str) -> None:
    """Broken or hostile JSON is an error that names the file, never a crash or a silent choice."""
    with pytest.raises(BundleError) as refusal:
        parse(source, "x/model.json")
    assert str(refusal.value).startswith(f"x/model.json: {message}")


def test_long_values_are_cut(heart: Bundle) -> None:
    """A complaint about a huge value stays readable."""
    edit(heart.path, "cell.kind", "x" * 10_000)
    with pytest.raises(BundleError) as refusal:
        load(heart.path)
    assert len(str(refusal.value)) < 300
