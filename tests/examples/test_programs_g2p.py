"""The spelling of words as phonemes, made into one step function: `generate` writes what the published network does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from programs.fetch import FOLDER, G2P
from programs.g2p import LETTERS, MOST_PHONEMES, PHONEMES
from programs.published import SPELLER

from stepstream import Client, Rollout
from stepstream_server.spec import ModelSpec
from support.published import require
from support.server import serving

Weights = Mapping[str, NDArray[np.float32]]
Floats = NDArray[np.float32]

TEXT = Path(__file__).parents[2] / "LICENSE"  # 200 English words that never change
AT_ONCE = 50


@pytest.fixture(scope="module")
def words() -> list[str]:
    """200 words, in the order in which they come."""
    found = re.findall(r"[a-z]+", TEXT.read_text().lower())
    return list(dict.fromkeys(found))[:200]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Those of the package."""
    require(G2P)
    with np.load(FOLDER / "checkpoint20.npz") as file:
        return dict(file)


def _cell(weights: Weights, which: str, x: Floats, h: Floats) -> Floats:
    """The next state of a gated recurrent unit, its gates r, z and n one below the other: Cho et al. 2014, equations 5 to 8
    (https://arxiv.org/abs/1406.1078), the reset gate behind the recurrent product as in torch.nn.GRUCell."""
    from_x = x @ weights[f"{which}_w_ih"].T + weights[f"{which}_b_ih"]
    from_h = h @ weights[f"{which}_w_hh"].T + weights[f"{which}_b_hh"]
    (xr, xz, xn), (hr, hz, hn) = np.split(from_x, 3), np.split(from_h, 3)
    r, z = (1 / (1 + np.exp(-gate)) for gate in (xr + hr, xz + hz))
    new: Floats = (1 - z) * np.tanh(xn + r * hn) + z * h
    return new


def _spell(weights: Weights, word: str) -> list[str]:
    """Phonemes of a word: the encoder reads its letters and what closes it, the decoder goes on from there, each time on the
    likeliest phoneme: Sutskever et al. 2014 (https://arxiv.org/abs/1409.3215)."""
    h = np.zeros(256, np.float32)
    for letter in (*word, "."):
        h = _cell(weights, "enc", weights["enc_emb"][LETTERS.index(letter)], h)
    written: list[str] = []
    phoneme = PHONEMES.index("BEGIN")
    while len(written) < MOST_PHONEMES:
        h = _cell(weights, "dec", weights["dec_emb"][phoneme], h)
        phoneme = int((weights["fc_w"] @ h + weights["fc_b"]).argmax())
        if PHONEMES[phoneme] == "END":
            break
        written.append(PHONEMES[phoneme])
    return written


async def test_generate_spells_200_words_as_the_published_network_does(
    weights: Weights, words: list[str], tmp_path: Path
) -> None:
    """Fifty at a time, each phoneme the likeliest."""
    SPELLER.bundle(tmp_path / "g2p")
    async with serving(tmp_path) as bound, Client(bound.listen) as client:

        def spell(word: str) -> Rollout[str]:
            prompt = " ".join((*word, "."))
            return client.generate("g2p", prompt, temperature=0.0, max_steps=MOST_PHONEMES, stop="END")

        found = []
        for begin in range(0, len(words), AT_ONCE):
            found += await asyncio.gather(*(spell(word).whole() for word in words[begin : begin + AT_ONCE]))
    expected = [_spell(weights, word) for word in words]
    assert len(words) == 200
    assert [spelt.split() for spelt in found] == expected
    assert expected[words.index("license")] == ["L", "AY1", "S", "AH0", "N", "S"]


def test_h_is_the_only_state_of_the_graph(weights: Weights, tmp_path: Path) -> None:
    """The encoder and the decoder share it; what it wrote last is the server's own."""
    spec: ModelSpec = SPELLER.bundle(tmp_path / "g2p").spec
    assert [(state.name, state.shape) for state in spec.states] == [("h", (256,)), ("last.next", (103,))]
