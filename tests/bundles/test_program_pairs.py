"""Which input and output of a graph are a state, as files call them."""

from __future__ import annotations

import pytest

from stepstream_server.bundles import BundleError
from stepstream_server.bundles.program.pairs import Tensor, pair


def floats(*names: str, dims: tuple[int | str, ...] = ("B", 4)) -> list[Tensor]:
    """Tensors of one shape."""
    return [Tensor(name, "float32", dims) for name in names]


def paired(inputs: list[Tensor], outputs: list[Tensor], **given: str) -> dict[str, str]:
    """Names of states, input to output."""
    return {each.read.name: each.written.name for each in pair(inputs, outputs, given)}


@pytest.mark.parametrize(
    ("read", "written"),
    [
        ("h", "hn"),
        ("h", "h_n"),
        ("h", "hN"),
        ("h0", "hn"),
        ("h_0", "h_n"),
        ("c", "cn"),
        ("state", "stateN"),
        ("state", "new_state"),
        ("state", "state_out"),
        ("state_in", "state_out"),
        ("h.in", "h.out"),
        ("past_k", "present_k"),
        ("prev_memory", "next_memory"),
        ("cache", "cache_new"),
        ("initial_h", "updated_h"),
        ("h", "h_next"),
        ("h", "h_1"),
        ("cached_len_0", "new_cached_len_0"),
        ("in_conv", "out_conv"),
        ("Memory", "memory_t"),
    ],
)
def test_states_are_found_by_their_names(read: str, written: str) -> None:
    """Exporters and papers have their ways to name a memory before and after a step."""
    assert paired(floats("x", read), floats("y", written)) == {read: written}


def test_each_layer_finds_its_own() -> None:
    """Numbers of layers are parts of names, and order does not matter."""
    layers = [f"h_{layer}" for layer in (2, 0, 1)]
    assert paired(floats("x", *layers), floats("y", "new_h_0", "new_h_1", "new_h_2")) == {each: f"new_{each}" for each in layers}


def test_what_cannot_be_one_tensor_is_no_state() -> None:
    """Dtype, number of axes and sizes that are known must agree."""
    for written in (Tensor("hn", "int64", ("B", 4)), Tensor("hn", "float32", ("B", 1, 4)), Tensor("hn", "float32", ("B", 5))):
        assert paired(floats("x", "h"), [*floats("y"), written]) == {}


def test_poor_shapes_of_outputs_do_not_matter() -> None:
    """Exporters often do not know what comes out."""
    for dims in (None, ("", ""), ("B", "unknown")):
        assert paired(floats("x", "h"), [Tensor("y", "float32", None), Tensor("hn", "float32", dims)]) == {"h": "hn"}


def test_shapes_tell_where_names_do_not() -> None:
    """But only where they leave something to take and something to give."""
    memory = floats("memory", dims=("B", 9))
    assert paired([*floats("x"), *memory], [*floats("y", dims=("B", 2)), *floats("z", dims=("B", 9))]) == {"memory": "z"}
    assert paired(floats("x"), floats("y")) == {}


def test_an_input_that_looks_like_an_output_is_no_state_beside_those_that_have_names() -> None:
    """An audio step in, one of that shape out."""
    assert paired(floats("noisy", "h"), floats("clean", "hn")) == {"h": "hn"}


def test_what_is_given_counts() -> None:
    """States that are known are not guessed, and free the others."""
    assert paired(floats("x", "a", "b"), floats("y", "p", "q"), a="q", b="p") == {"a": "q", "b": "p"}
    for given, message in (
        ({"z": "y"}, "expected an input of the graph, x, a, got z"),
        ({"a": "z"}, "an output of the graph, y"),
    ):
        with pytest.raises(BundleError, match=message):
            paired(floats("x", "a"), floats("y"), **given)
    with pytest.raises(BundleError, match="expected tensors of one dtype, got float32 and int64"):
        paired(floats("x", "a"), [Tensor("y", "int64", None)], a="y")
