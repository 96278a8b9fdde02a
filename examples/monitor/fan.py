"""A forecast as a fan: many paths that a heart might take from now on, and the one that it took."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from monitor.forecast import Millivolts
from numpy.typing import NDArray

from stepstream import Client

matplotlib.use("Agg")
from matplotlib import pyplot as plt

HORIZON = 27  # readings: 0.3 s
PATHS = 100
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
SEED = 0
PAST = 90  # readings shown before the fan
FANS = (12.5, 17.0, 30.2)  # seconds of the recording: before an ordinary beat, before one that came unforeseen, behind one


async def fan(client: Client, model: str, readings: Millivolts) -> NDArray[np.float32]:
    """Quantiles [HORIZON, levels] of what may follow the readings, in mV."""
    async with client.open_session(model) as session:
        return (await session.forecast(HORIZON, prompt=readings[:, np.newaxis], paths=PATHS, levels=LEVELS, seed=SEED))[..., 0]


def inside(quantiles: NDArray[np.float32], came: Millivolts) -> int:
    """How many of the readings that came lie between the outer quantiles."""
    return int(((quantiles[:, 0] <= came) & (came <= quantiles[:, -1])).sum())


def picture(fans: dict[float, NDArray[np.float32]], readings: Millivolts, rate: int, path: Path) -> None:
    """Draws each fan, by the second in which it was made, over the readings around it."""
    figure, row = plt.subplots(1, len(fans), figsize=(13, 2.8), sharey=True, squeeze=False, layout="constrained")
    for axes, (second, quantiles) in zip(row[0], fans.items(), strict=True):
        now = round(second * rate)
        ahead = np.arange(now, now + HORIZON) / rate
        for low in range(len(LEVELS) // 2):
            axes.fill_between(ahead, quantiles[:, low], quantiles[:, -1 - low], color="tab:cyan", alpha=0.3, lw=0)
        axes.plot(ahead, quantiles[:, len(LEVELS) // 2], color="tab:cyan", lw=1.2, label="median")
        around = np.arange(now - PAST, now + HORIZON)
        axes.plot(around / rate, readings[around], color="0.2", lw=0.9, label="observed")
        axes.axvline(now / rate, color="0.6", lw=0.8, ls=":")
        axes.set_xlabel("seconds")
    row[0][0].set_ylabel("mV")
    row[0][0].legend(loc="upper left", fontsize="small")
    figure.suptitle(
        f"{PATHS} paths drawn {1000 * HORIZON / rate:.0f} ms ahead: 40 and 80 % of them are shaded; not a medical device"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
