"""Measures the voice activity detector on mixtures of speech, pauses and noise, as it is served, beside an energy threshold.

Prints the tables of VAD.md and draws `vad.png`. Probabilities come from the server's own arithmetic, a session for each mixture.
`--tune` chooses the numbers of the energy threshold instead; `--live` measures how late segments are told by a server in life.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `speech.…`, from wherever it is started

from monitor.server import running_server
from speech.energy import ANY_NOISE, KNOWN_NOISE, Energy, above_floor, loudness
from speech.mixtures import NOISES, Mixture, mixture
from speech.segments import RATE, Rule
from speech.vad import MODEL, Unfit, detector, listen, pack, steps_of
from speech.vad_picture import draw
from speech.vad_scores import Figures, Scores, judge, match

from stepstream import Client
from stepstream_server.backends import build
from stepstream_server.bundles import Bundle, load
from stepstream_server.config import BackendSettings

Steps = NDArray[np.float32]  # [N, T, STEP]: recordings, full scale 1

SNRS = (20, 10, 5, 0)  # dB: a quiet room, a car, a canteen, a machine next to it
CONDITIONS = ("none", *map(str, SNRS))
SEEDS = 3  # mixtures of each noise at each ratio
PICTURE = Path(__file__).with_name("vad.png")
PICTURED = ("pink", 0.0, 2)  # noise, dB and seed
_ROWS, _WINDOW = 64, 100  # sessions and steps per launch, at most; no output depends on them

# What --tune tries.
BANDS = ((0, 8000), (100, 4000), (300, 4000), (300, 2000), (500, 4000))
RISES = (0.25, 0.5, 1.0, 2.0, 4.0)
MARGINS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 18.0, 24.0)
BACKS = (0.0, 1.0, 2.0, 3.0)


@dataclass(frozen=True, slots=True)
class Mixed:
    """Mixtures under one condition."""

    noise: str  # "none" for none
    snr: str  # "none" for no noise
    mixtures: list[Mixture]


def mixtures(tuning: bool, condition: str) -> Iterator[Mixed]:
    """Mixtures with this ratio of speech to noise, by noise; or as many without noise."""
    if condition == "none":
        yield Mixed("none", "none", [mixture(tuning, None, 0.0, seed) for seed in range(SEEDS * len(NOISES))])
        return
    for noise in NOISES:
        yield Mixed(noise, condition, [mixture(tuning, noise, float(condition), seed) for seed in range(SEEDS)])


def fed(made: Sequence[Mixture]) -> Steps:
    """Mixtures as they are fed."""
    return np.stack([list(steps_of(each.samples)) for each in made])


def serve(bundle: Bundle, steps: Steps) -> Scores:
    """Probabilities of speech [N, T], of one session for each recording."""
    count, length, _ = steps.shape
    most, settings = min(count, _ROWS), BackendSettings(threads=1)
    backend = build(bundle.spec, bundle.weights, settings, slots=count, max_batch=most, graph=bundle.graph)
    slots, answers = backend.allocate(count), np.empty((count, length), np.float32)
    for who, when in product(_cut(count, backend.max_batch), _cut(length, _WINDOW)):
        part = steps[who, when]
        answers[who, when] = backend.collect(backend.launch("step", slots[who], (part,), part.shape[1])).outputs[0][..., 0]
    return answers


def _cut(count: int, most: int) -> list[slice]:
    return [slice(begin, begin + most) for begin in range(0, count, most)]


class Judged:
    """All detectors on all mixtures under some conditions."""

    def __init__(self, bundle: Bundle, conditions: Sequence[str] = CONDITIONS) -> None:
        self._groups = [group for condition in conditions for group in mixtures(False, condition)]
        self._made = [each for group in self._groups for each in group.mixtures]
        self._steps = fed(self._made)
        self._probabilities = serve(bundle, self._steps)

    def by_ratio(self, condition: str) -> dict[str, Figures]:
        """Detector -> its figures on the mixtures with this ratio of speech to noise."""
        which = self._where([group.snr == condition for group in self._groups])
        return {"Silero": self._silero(which), "energy": self._energy(which, ANY_NOISE)}

    def by_noise(self, noise: str) -> dict[str, Figures]:
        """Detector -> its figures on the mixtures with this noise."""
        which = self._where([group.noise == noise for group in self._groups])
        known = self._energy(which, KNOWN_NOISE[noise])
        return {"Silero": self._silero(which), "energy": self._energy(which, ANY_NOISE), "energy, noise known": known}

    def _where(self, chosen: Sequence[bool]) -> list[int]:
        """Numbers of the mixtures of some of the groups."""
        return np.flatnonzero(np.repeat(chosen, [len(group.mixtures) for group in self._groups])).tolist()

    def _silero(self, which: list[int]) -> Figures:
        return judge([self._made[at] for at in which], self._probabilities[which], Rule())

    def _energy(self, which: list[int], energy: Energy) -> Figures:
        return judge([self._made[at] for at in which], energy.scores(self._steps[which].astype(np.float64)), energy.rule)


def rows(what: str, figures: Mapping[str, Figures]) -> list[str]:
    """Rows of VAD.md's tables, one for each detector."""
    return [
        f"| {what} | {name} | {f.auc:.3f} | {f.f1:.3f} | {f.accuracy:.3f} | {f.missed:.1%} | {f.false_alarms:.1%} "
        f"| {f.found} of {f.spans} | {f.alone} | {f.made_up} | {_delays(f)} |"
        for name, f in figures.items()
    ]


def _delays(figures: Figures) -> str:
    return f"{figures.delay(50):.0f}, {figures.delay(99):.0f}" if figures.delays else "–"


def ratio_rows(judged: Judged, condition: str) -> list[str]:
    """Rows of the first table for one ratio of speech to noise."""
    return rows("no noise" if condition == "none" else f"{condition} dB", judged.by_ratio(condition))


def tables(judged: Judged) -> tuple[str, str]:
    """Both tables of VAD.md."""
    columns = "detector | AUC | F1 | accuracy | missed | false alarms | phrases found | alone | made up | delay, ms: p50, p99 |"
    line = "|---" * (columns.count("|") + 1) + "|"
    by_ratio = [row for condition in CONDITIONS for row in ratio_rows(judged, condition)]
    by_noise = [row for noise in NOISES for row in rows(noise, judged.by_noise(noise))]
    return (
        "\n".join([f"| speech above noise | {columns}", line, *by_ratio]),
        "\n".join([f"| noise | {columns}", line, *by_noise]),
    )


def tune(noises: Sequence[str]) -> tuple[float, Energy]:
    """Balanced accuracy and numbers of the best energy threshold that is tried, on the mixtures to tune on with these noises."""
    groups = [group for condition in CONDITIONS for group in mixtures(True, condition) if group.noise in noises]
    made = [each for group in groups for each in group.mixtures]
    steps = fed(made).astype(np.float64)
    levels = {band: loudness(steps, band) for band in BANDS}
    above = {(band, rise): above_floor(levels[band], rise) for band, rise in product(BANDS, RISES)}
    tried = [Energy(band, rise, margin, back) for (band, rise), margin, back in product(above, MARGINS, BACKS)]
    found = ((judge(made, above[each.band, each.rise], each.rule).balanced, each) for each in tried)
    return max(track(found, total=len(tried), description=", ".join(noises)), key=lambda each: each[0])


async def live() -> list[float]:
    """Ms from the end of each phrase of the mixtures without noise, all fed at once at their natural rate to a server of its own,
    until the caller has been told."""
    made = next(mixtures(False, "none")).mixtures
    async with running_server(pack()) as server, Client(server.address) as client:
        return [delay for delays in await asyncio.gather(*(_lived(client, each) for each in made)) for delay in delays]


async def _lived(client: Client, made: Mixture) -> list[float]:
    clock = asyncio.get_running_loop().time
    async with detector(client, MODEL) as session:
        began, late, told = clock(), [], []
        async for segment in listen(session, made.samples, 1.0):
            late.append(clock() - began - segment.told / RATE)
            told.append(segment)
    return [delay + 1000 * late[column] for column, delay in match(made.spans, told).ends]


def picture(bundle: Bundle, path: Path) -> None:
    """Draws one mixture, and what both detectors make of it."""
    made = mixture(False, *PICTURED)
    steps = fed([made])
    above = ANY_NOISE.scores(steps.astype(np.float64))
    draw(made, serve(bundle, steps)[0], above[0], ANY_NOISE, f"{PICTURED[0]} noise, speech {PICTURED[1]:.0f} dB above it", path)


def main() -> None:
    """Prints the tables and draws the picture, or does what was asked for instead."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="print the best energy thresholds on the mixtures to tune on")
    parser.add_argument("--live", action="store_true", help="print delays of segments' ends at a server, in real time")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="default: %(default)s")
    options = parser.parse_args()
    try:
        if options.tune:
            for noises in (["none", *NOISES], *([noise] for noise in NOISES)):
                print(", ".join(noises), *tune(noises))
        elif options.live:
            delays = asyncio.run(live())
            print(f"{len(delays)} phrases: p50 {np.percentile(delays, 50):.0f} ms, p99 {np.percentile(delays, 99):.0f} ms")
        else:
            bundle = load(pack() / MODEL)
            print("\n\n".join(tables(Judged(bundle))))
            picture(bundle, options.picture)
            print(f"wrote {options.picture}")
    except (Unfit, FileNotFoundError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
