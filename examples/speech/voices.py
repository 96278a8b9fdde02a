"""Synthetic voices that say English digits: the formants of espeak-ng and the recorded voices of flite, both Debian packages.

A voice is drawn with its rate, its pitch and the size of its vocal tract. Whole variants of espeak-ng are held out.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from speech.features import RATE, Floats

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "oh")
PROGRAMS = ("espeak-ng", "flite")
ACCENTS = ("en-us", "en-us", "en-us", "en-us-nyc", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029")  # half are American
# Variants that sound like people; whispers, robots and demons are left out. No family is on both sides.
HELD_OUT = ("f4", "m7", "Annie", "belinda", "edward", "edward2", "Michael", "quincy", "steph", "steph2", "steph3", "victor")
TRAINED = (
    *("f1", "f2", "f3", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m8", "klatt", "klatt2", "klatt3", "klatt4", "klatt5"),
    *("Alex", "Alicia", "Andrea", "Andy", "Denis", "Diogo", "Gene", "Gene2", "Henrique", "Hugo", "Jacky", "Lee", "Marco"),
    *("Mario", "Mike", "Mr serious", "Nguyen", "RicishayMax", "RicishayMax2", "RicishayMax3", "adam", "anika", "announcer"),
    *("antonio", "aunty", "benjamin", "boris", "caleb", "david", "ed", "grandma", "grandpa", "gustave", "iven", "iven2"),
    *("iven3", "iven4", "john", "linda", "marcelo", "max", "michel", "miguel", "norbert", "pablo", "paul", "pedro", "rob"),
    *("robert", "sandro", "shelby", "travis", "zac"),
)
FLITE = ("awb", "kal16", "rms", "slt")  # a Scot, two Americans, and an American woman
_RATES = {"espeak-ng": 22050, "flite": 16000}  # samples per second
_PAUSE, _PAUSED = '<break time="2s"/>', 0.6  # and the seconds that are surely one, at any rate of speech
_HEADER = 44  # bytes before the samples in what both programs write


@dataclass(frozen=True, slots=True)
class Voice:
    """Somebody who speaks."""

    program: str
    name: str
    settings: tuple[str, ...]  # of the program: rate and pitch
    size: float  # of the vocal tract, relative to the voice's own; the pitch falls and words take longer with it

    def say(self, texts: Sequence[str]) -> list[Floats]:
        """Samples [n] of each text at RATE, between -1 and 1."""
        if self.program == "flite":
            said = [self._run("-voice", self.name, "-t", text, "-o", "/dev/stdout") for text in texts]
        else:  # starts slowly: says everything at once, with pauses
            said = parts(self._run("-v", self.name, "-m", "--stdout", _PAUSE.join(texts)), len(texts))
        return [resample(samples, self.size * RATE / _RATES[self.program]) for samples in said]

    def _run(self, *arguments: str) -> NDArray[np.float64]:
        said = subprocess.run([self.program, *self.settings, *arguments], capture_output=True, check=True).stdout
        return np.frombuffer(said[_HEADER : len(said) // 2 * 2], "<i2") / 32768


def parts(samples: NDArray[np.float64], count: int) -> list[NDArray[np.float64]]:
    """Cuts out what was said between long pauses. Raises RuntimeError if it is not as many parts as expected."""
    sounds = np.flatnonzero(np.abs(samples) > 1e-3 * np.abs(samples).max())
    ends = np.flatnonzero(np.diff(sounds) > _PAUSED * _RATES["espeak-ng"])
    found = [samples[part[0] : part[-1] + 1] for part in np.split(sounds, ends + 1)]
    if len(found) != count:
        raise RuntimeError(f"espeak-ng: expected {count} texts with pauses between them, got {len(found)}")
    return found


def resample(samples: NDArray[np.float64], factor: float) -> Floats:
    """Samples [n] -> [n * factor] of the same course, without what the new rate cannot hold."""
    spectrum = np.fft.rfft(samples)
    count = round(len(samples) * factor)
    return np.clip(np.fft.irfft(spectrum[: count // 2 + 1] * factor, count), -1, 1).astype(np.float32)


def draw(random: random.Random, held_out: bool) -> Voice:
    """Draws a voice: of the held-out variants, or else of the others, half of them flite's."""
    if not held_out and random.random() < 0.5:
        pitch, stretch = random.uniform(85, 220), random.uniform(0.75, 1.4)
        settings = ("--setf", f"int_f0_target_mean={pitch:.0f}", "--setf", f"duration_stretch={stretch:.2f}")
        return Voice("flite", random.choice(FLITE), settings, random.uniform(0.85, 1.2))
    name = f"{random.choice(ACCENTS)}+{random.choice(HELD_OUT if held_out else TRAINED)}"
    settings = ("-s", str(random.randint(110, 210)), "-p", str(random.randint(20, 80)))
    return Voice("espeak-ng", name, settings, random.uniform(0.9, 1.1))


def missing() -> str:
    """Names a synthesiser that is not installed, and the command that helps; empty if both are."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"{' and '.join(absent)} not installed: run `python examples/speech/fetch.py`" if absent else ""
