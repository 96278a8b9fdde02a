"""Features that the `digits` model is trained on: of digits that synthetic voices say, made once and kept in `build/digits`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from speech.features import WINDOW, Floats, frames
from speech.joined import trim
from speech.voices import WORDS, draw

CACHE = Path(__file__).parents[2] / "build" / "digits"
SPEAKERS = 500  # voices
STRINGS = 5  # that each says in one go, so that words run into each other
LONGEST = 7  # digits of a string
Half = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Spoken:
    """Features of what was said."""

    words: tuple[int, ...]  # places in WORDS
    frames: Half  # [n, BANDS], from the first sound to the last


@dataclass(frozen=True, slots=True)
class Speaker:
    """One voice, and all that it says."""

    words: list[Spoken]  # each by itself
    strings: list[Spoken]


def corpus(cache: Path = CACHE, speakers: int = SPEAKERS) -> list[Speaker]:
    """All speakers; made where the cache does not have them, which takes minutes."""
    file = cache / f"speakers_{speakers}.npz"
    if not file.exists():
        with ProcessPoolExecutor() as pool:
            made = track(pool.map(_speaker, range(speakers), chunksize=5), total=speakers, description="voices talk")
            _write(file, [each for several in made for each in several])
    said = list(_read(file))
    kept = len(WORDS) + STRINGS
    parts = [said[begin : begin + kept] for begin in range(0, len(said), kept)]
    return [Speaker(part[: len(WORDS)], part[len(WORDS) :]) for part in parts]


def _speaker(seed: int) -> list[Spoken]:
    """One voice: every word by itself, then strings."""
    chance = random.Random(f"speaker {seed}")
    voice = draw(chance, held_out=False)
    strings = [tuple(chance.choices(range(len(WORDS)), k=chance.randint(2, LONGEST))) for _ in range(STRINGS)]
    texts = [*((word,) for word in range(len(WORDS))), *strings]
    waves = voice.say([" ".join(WORDS[word] for word in text) for text in texts])
    return [Spoken(text, _frames(wave)) for text, wave in zip(texts, waves, strict=True)]


def _frames(samples: Floats) -> Half:
    around = np.zeros(WINDOW, np.float32)
    return frames(np.concatenate([around, trim(samples), around])).astype(np.float16)


def _write(file: Path, said: list[Spoken]) -> None:
    words = np.full((len(said), LONGEST), -1, np.int8)
    for row, each in zip(words, said, strict=True):
        row[: len(each.words)] = each.words
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part.npz")
    np.savez(
        unfinished,
        words=words,
        lengths=[len(each.frames) for each in said],
        frames=np.concatenate([each.frames for each in said]),
    )
    unfinished.replace(file)


def _read(file: Path) -> Iterator[Spoken]:
    with np.load(file) as kept:
        words, frames, ends = kept["words"], kept["frames"], np.cumsum(kept["lengths"])
    for row, begin, end in zip(words, [0, *ends[:-1]], ends, strict=True):
        yield Spoken(tuple(row[row >= 0].tolist()), frames[begin:end])
