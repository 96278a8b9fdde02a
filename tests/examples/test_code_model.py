"""The shipped code bundle, measured on the held-out files that are shipped, through the backend that serves it."""

from __future__ import annotations

from pathlib import Path

import evaluate_code
import numpy as np
import pytest
from corpus import Files, load_shipped
from evaluate_code import BUNDLE, bits, per_byte, surprise, table, write

from stepstream_server.bundles import Bundle
from stepstream_server.bundles import load as load_bundle
from stepstream_server.spec import EmbeddingFront, TextSpec, cell_model

README = (Path(evaluate_code.__file__).parent / "README.md").read_text()


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """The bundle that is shipped."""
    return load_bundle(BUNDLE)


@pytest.fixture(scope="module")
def shipped() -> Files:
    """The held-out files that are shipped."""
    return load_shipped()


def test_the_bundle_is_what_the_contract_says(bundle: Bundle) -> None:
    """A byte in per step, the logits of the next one out; text is bytes, and its origin is told."""
    spec = bundle.spec
    assert (spec.name, spec.version, spec.inputs[0].text) == ("code", 1, TextSpec("bytes"))
    assert [(tensor.name, tensor.dtype, tensor.shape, tensor.limit) for tensor in spec.inputs] == [("byte", "int64", (), 256)]
    assert [(head.name, head.kind, head.width) for head in spec.heads] == [("next", "next_token", 256)]
    assert isinstance(cell_model(spec).front, EmbeddingFront)
    assert "PSF-2.0" in spec.licence
    assert "Python Software Foundation" in spec.licence
    assert "train_code.py" in spec.provenance
    assert sum(file.stat().st_size for file in BUNDLE.iterdir()) < 2_600_000


def test_the_readme_shows_the_figures_of_the_shipped_bundle(bundle: Bundle, shipped: Files) -> None:
    """Its table of the shipped files is the one that evaluate_code.py prints; the model needs far fewer bits than gzip."""
    figures = per_byte(bundle, shipped)
    assert table(figures) in README
    assert figures["`code`"] < 2.0
    assert figures["`code`"] < 0.75 * min(figure for name, figure in figures.items() if "gzip" in name)


def test_files_do_not_touch_each_other(bundle: Bundle, shipped: Files) -> None:
    """A file needs the same bits, to the last one, by itself and beside others of other lengths."""
    contents = [content[:400] for content in shipped.values()] + [b"ab", b"a"]
    together = bits(bundle, contents)
    assert together == [bits(bundle, [content])[0] for content in contents]
    assert together[-1] == 8


def test_the_model_has_learnt_the_language(bundle: Bundle) -> None:
    """It knows keywords and phrases, and what it draws is text, the same for a seed."""
    for begun, rest in (
        (b"class A:\n    def __init__(se", b"lf"),
        (b"for i in ran", b"ge("),
        (b'if __name__ == "__ma', b'in__"'),
    ):
        assert write(bundle, begun, len(rest), temperature=0.0) == rest
    drawn = write(bundle, b"def ", 200, temperature=0.5)
    drawn.decode("ascii")
    assert drawn == write(bundle, b"def ", 200, temperature=0.5)
    assert drawn != write(bundle, b"def ", 200, temperature=0.5, seed=1)


def test_surprise_by_hand() -> None:
    """Two bits for one of four that are equally likely, however large their logits."""
    logits = np.full((1, 2, 256), -np.inf, np.float32)
    logits[..., :4] = 1000.0
    np.testing.assert_allclose(surprise(logits, np.array([[0, 3]])), [[2.0, 2.0]])
