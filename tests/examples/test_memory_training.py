"""The memory example's training script, for a handful of iterations, and the figures that its README shows."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the torch extra")

from memory import evaluate  # noqa: E402
from memory.evaluate import gradient_table, gradients, recall_table  # noqa: E402
from memory.gradients import Ratios, gradient_ratios  # noqa: E402
from memory.grammar import LANGUAGES, TOKENS, VOCABULARY  # noqa: E402
from memory.network import HIDDEN, KINDS, Kind, Network, restore, untrained_lstm  # noqa: E402
from memory.recall import held_out_stories  # noqa: E402
from memory.train import ENTRANTS, LONGEST, Schedule, batches, save_bundle, train  # noqa: E402

from stepstream_server.backends import build  # noqa: E402
from stepstream_server.bundles import Bundle, load  # noqa: E402
from stepstream_server.config import BackendSettings  # noqa: E402
from stepstream_server.spec import cell_model  # noqa: E402

SHORT = Schedule(1e-3, iterations=4, batch=4, seed=7)
README = (Path(evaluate.__file__).parent / "README.md").read_text()


@pytest.fixture(scope="module")
def bundles() -> dict[str, Bundle]:
    """The shipped bundle and its rivals."""
    return {name: load(entrant.path) for name, entrant in ENTRANTS.items()}


@pytest.fixture(scope="module")
def ratios(bundles: dict[str, Bundle]) -> dict[str, Ratios]:
    """How much of the gradient arrives, by curve and lag."""
    return gradients(bundles)


def figures(table: str) -> dict[str, list[float]]:
    """A table's rows: the first column, and the numbers behind it."""
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return {row[0]: [float(re.findall(r"[\d.e+-]+", cell)[0]) for cell in row[1:]] for row in rows}


def readme_table(head: str) -> dict[str, list[float]]:
    """The figures of README.md's table that begins with these words."""
    begin = README.index(head)
    return figures(README[begin : README.index("\n\n", begin)])


def test_two_stories_fill_a_row() -> None:
    """Rows are equally long; what the network is asked for at a blank is the language of the country before it."""
    for rows, blanks in batches(SHORT):
        assert rows.shape == (4, 2 * 11 + LONGEST)
        for row, (first, second) in zip(rows.tolist(), blanks.tolist(), strict=True):
            words = [VOCABULARY[token] for token in row]
            for begin, blank in ((0, first), (first + 3, second)):
                assert words[blank - 2 : blank + 1] == ["I", "speak", "fluent"]
                assert row[blank + 1] == TOKENS[LANGUAGES[words[begin + 4]]]
            assert second + 3 == len(row)


def test_filler_can_grow() -> None:
    """From none at the first iteration to the whole after the share of them that was asked for."""
    lengths = [rows.shape[1] - 2 * 11 for rows, _ in batches(replace(SHORT, iterations=10, growing=0.5))]
    assert lengths == [0, 20, 40, 60, 80, 100, 100, 100, 100, 100]


def test_rivals_have_as_many_parameters() -> None:
    """Within a hundredth, in the recurrent layer."""
    sizes = [Network(kind, 10).cell_parameters for kind in KINDS]
    assert max(sizes) < 1.01 * min(sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_training_writes_the_same_bundle_twice(kind: Kind, tmp_path: Path) -> None:
    """The same seed gives the same bytes; another one other weights."""
    first, again = (save_bundle(train(kind, SHORT)[0], SHORT, tmp_path / part / "memory") for part in ("first", "again"))
    for file in ("model.json", "model.safetensors"):
        assert (first.path / file).read_bytes() == (again.path / file).read_bytes()
    assert cell_model(first.spec).cell.hidden_size == HIDDEN[kind]
    other = save_bundle(train(kind, replace(SHORT, seed=8))[0], SHORT, tmp_path / "other" / "memory")
    assert other.spec.fingerprint != load(first.path).spec.fingerprint


@pytest.mark.parametrize("name", ENTRANTS)
def test_the_server_computes_what_the_restored_network_does(bundles: dict[str, Bundle], name: str) -> None:
    """Scores of a whole story are the same but for rounding."""
    bundle = bundles[name]
    tokens, _ = held_out_stories(20, 20)
    backend = build(bundle.spec, bundle.weights, BackendSettings(), slots=20, max_batch=20)
    (served,) = backend.collect(backend.launch("step", backend.allocate(20), (tokens,), tokens.shape[1])).outputs
    with torch.no_grad():
        expected = restore(bundle)(torch.from_numpy(tokens)).numpy()
    np.testing.assert_allclose(served, expected, atol=1e-3)


def test_gradients_where_they_can_be_worked_out() -> None:
    """With all gates shut but the forget gates, c passes the gradient on by f alone."""
    network = untrained_lstm(len(VOCABULARY))
    with torch.no_grad():
        for weight in network.cell.parameters():
            weight.zero_()
        network.cell.get_parameter("bias_ih_l0")[HIDDEN["lstm"] : 2 * HIDDEN["lstm"]] = 2.0
    ratio = gradient_ratios(network, 10, 20)["c"]
    np.testing.assert_allclose(ratio, (1 / (1 + np.exp(-2.0))) ** np.arange(11), rtol=1e-9)


def test_the_readme_shows_the_recall_of_the_bundles(bundles: dict[str, Bundle]) -> None:
    """Its table is what evaluate.py prints; a rounding of another processor may tip a story or two in a thousand."""
    shown = readme_table("| words between |")
    measured = figures(recall_table(bundles, (5, 30, 100)))
    for row, shares in measured.items():
        np.testing.assert_allclose(shown[row], shares, atol=0.3)


def test_the_readme_shows_the_gradients_of_the_bundles(ratios: dict[str, Ratios]) -> None:
    """Its table is what evaluate.py prints, to the second digit."""
    shown = readme_table("| | lag 1 |")
    measured = figures(gradient_table(ratios))
    assert list(shown) == list(measured)
    for row, norms in measured.items():
        np.testing.assert_allclose(np.log10(shown[row]), np.log10(norms), atol=0.1)


def test_training_opens_the_memory(ratios: dict[str, Ratios]) -> None:
    """Over a hundred words the gradients of the LSTM, along c, and the GRU survive; an untrained LSTM's and the RNN's do not."""
    assert ratios["LSTM: c"][100] >= 1e-2
    assert ratios["GRU: h"][100] >= 1e-2
    assert ratios["tanh RNN: h"][100] <= 1e-6
    assert ratios["LSTM, untrained: c"][100] <= 1e-6
