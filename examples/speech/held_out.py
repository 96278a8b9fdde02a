"""Utterances that `digits` is tested on: strings of digits, said by synthetic voices that it never heard and by two people."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from rich.progress import track
from speech import fetch
from speech.corpus import CACHE
from speech.joined import Utterance, join, strings, trim
from speech.recordings import read
from speech.voices import WORDS, draw

VOICES = 60  # held-out voices; half of the digits are said by each in one go
STRINGS = 100  # of each person, joined from one recording of each word
LONGEST = 7
JOINED, FLUENT = "synthetic voices, words joined", "synthetic voices, in one go"


def person(name: str, count: int = STRINGS) -> list[Utterance]:
    """Strings joined from the eleven words that one of `fetch.PEOPLE` recorded."""
    spoken = {word: trim(read(path)) for word, path in enumerate(fetch.files(name))}
    return strings(spoken, count, LONGEST, random.Random(name))


def synthetic(cache: Path = CACHE, count: int = VOICES) -> dict[str, list[Utterance]]:
    """Strings of held-out voices, joined from single words, and said in one go, for which the ends of words are not known.
    Made where the cache does not have them."""
    file = cache / f"held_out_{count}.npz"
    if not file.exists():
        chance = random.Random("held out")
        said = [_voice(chance) for _ in track(range(count), description="held-out voices talk")]
        _write(file, {JOINED: [each for joined, _ in said for each in joined], FLUENT: [fluent for _, fluent in said]})
    return _read(file)


def _voice(chance: random.Random) -> tuple[list[Utterance], Utterance]:
    """One held-out voice: two strings of single words, and one in one go."""
    voice = draw(chance, held_out=True)
    words = tuple(chance.choices(range(len(WORDS)), k=chance.randint(2, LONGEST)))
    *alone, fluent = (trim(samples) for samples in voice.say([*WORDS, " ".join(WORDS[word] for word in words)]))
    joined = strings(dict(enumerate(alone)), 2, LONGEST, chance)
    said = join([(0, fluent)], chance)
    return joined, Utterance(said.samples, words, ())


def _write(file: Path, said: dict[str, list[Utterance]]) -> None:
    arrays = {
        f"{kind}/{number}/{part}": np.asarray(getattr(each, part))
        for kind, several in said.items()
        for number, each in enumerate(several)
        for part in ("samples", "words", "ends")
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **arrays)  # type: ignore[arg-type]  # a keyword of numpy's own might be among them


def _read(file: Path) -> dict[str, list[Utterance]]:
    found: dict[str, list[Utterance]] = {}
    with np.load(file) as kept:
        for name in kept:
            if name.endswith("/samples"):
                kind = name.split("/")[0]
                words, ends = (tuple(kept[name.replace("samples", part)].astype(int).tolist()) for part in ("words", "ends"))
                found.setdefault(kind, []).append(Utterance(kept[name], words, ends))
    return found
