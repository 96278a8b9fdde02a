"""The training script of the code model, for a handful of iterations."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the torch extra")

from corpus import Files, load_shipped  # noqa: E402
from evaluate_code import bits  # noqa: E402
from train_code import PADDING, Schedule, Writer, cut, learning_rate, save_bundle, train, windows  # noqa: E402

from stepstream_server.bundles import load as load_bundle  # noqa: E402
from stepstream_server.spec import TextSpec, cell_model  # noqa: E402

BFLOAT16 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")  # where the processor has it, and as models are trained
SHORT = Schedule(iterations=30, batch=4, steps=32, hidden=16, learning_rate=1e-2, warming=5, float32=True, seed=7)


@pytest.fixture(scope="module")
def files() -> Files:
    """A few files to train on."""
    return load_shipped()


def test_a_few_iterations_reduce_the_loss(files: Files) -> None:
    """From eight bits, as of any byte, to fewer."""
    _, losses = train(files, SHORT)
    assert len(losses) == SHORT.iterations
    assert losses[0] == pytest.approx(8, abs=0.5)
    assert np.mean(losses[-5:]) < 6


def test_the_same_seed_writes_the_same_bundle(files: Files, tmp_path: Path) -> None:
    """To the byte; another seed gives another one. It is one that loads."""
    written = []
    for folder, seed in (("a", 7), ("b", 7), ("c", 8)):
        few = Schedule(iterations=3, batch=4, steps=32, hidden=16, float32=not BFLOAT16, seed=seed)
        save_bundle(train(files, few)[0], files, tmp_path / folder)
        written.append([(tmp_path / folder / name).read_bytes() for name in ("model.json", "model.safetensors")])
    assert written[0] == written[1] != written[2]
    spec = load_bundle(tmp_path / "a").spec
    assert (spec.name, spec.inputs[0].text, cell_model(spec).cell.hidden_size) == ("code", TextSpec("bytes"), 16)
    assert f"{len(files)} files, {sum(map(len, files.values()))} bytes" in spec.provenance


def test_every_byte_but_the_first_is_a_target_once() -> None:
    """A file's windows put together are the file; the last one is filled up with what does not count."""
    contents = [np.arange(10, dtype=np.uint8), np.array([40, 41], np.uint8), np.arange(50, 59, dtype=np.uint8)]
    pieces = list(cut(iter(contents), steps=4))
    assert [begins for *_, begins in pieces] == [True, False, False, True, True, False]
    assert all(read.shape == follows.shape == (4,) for read, follows, _ in pieces)
    counted = [(int(x), int(y)) for read, follows, _ in pieces for x, y in zip(read, follows, strict=True) if y != PADDING]
    assert counted == [(int(x), int(y)) for content in contents for x, y in itertools.pairwise(content)]


def test_rows_go_on_where_they_ended(files: Files) -> None:
    """A row's next window begins with the byte that its last one ended before, unless a file begins."""
    last = None
    for read, follows, begins in windows(files, SHORT):
        assert read.shape == follows.shape == (32, 4)
        if last is not None:
            assert all(begun or first == before for begun, first, before in zip(begins, read[0], last, strict=True))
        last = follows[-1]
    assert begins.dtype == torch.bool


def test_a_pass_reads_every_file_once(files: Files) -> None:
    """As many windows as one row needs for all files begin each file once."""
    once = sum(-(-(len(content) - 1) // 32) for content in files.values())
    begun = [bool(begins[0]) for *_, begins in windows(files, Schedule(iterations=once + 1, batch=1, steps=32))]
    assert sum(begun[:-1]) == len(files)
    assert begun[-1]


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    """From a fifth of its height in five iterations; in the last twelve of thirty it falls."""
    rates = [learning_rate(SHORT, iteration) for iteration in range(SHORT.iterations + 1)]
    np.testing.assert_allclose(rates[:6], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert set(rates[4:18]) == {1.0}
    assert rates[18:] == sorted(rates[18:], reverse=True)
    assert rates[24] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0)


def test_the_saved_bundle_predicts_what_the_trained_module_does(files: Files, tmp_path: Path) -> None:
    """Served, with its weights rounded to halves, it needs as many bits as the module to within the rounding."""
    model, _ = train(files, SHORT)
    bundle = save_bundle(model, files, tmp_path / "code")
    content = files["signal.py"][:300]
    with torch.no_grad():
        read = torch.tensor(list(content))[:, None]
        logits, _ = model(read[:-1], model.begin(1))
        expected = 8 + torch.nn.functional.cross_entropy(logits[:, 0], read[1:, 0], reduction="sum").item() / np.log(2)
    assert bits(bundle, [content])[0] == pytest.approx(expected, rel=1e-3)
    assert isinstance(model, Writer)
