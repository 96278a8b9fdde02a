"""Five uses of an LSTM at length, against one server: time series, text, sentiment, translation and speech.

Starts a server of the shipped models, and of Silero's voice activity detector where `examples/programs/fetch.py` has fetched it.
Streams and forecasts an electrocardiogram, has code and a story gone on with, scores sentences word by word, translates dates,
times and numbers, hears digits, and notices speech in a recording as it is fed in real time. In the end the server is stopped.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo import MODELS, conclude, forecast, read_readings, watch
from listening import hear, notice
from monitor.server import running_server
from programs.fetch import RECORDINGS, SILERO, files, missing
from programs.published import VAD
from reading import score, translate
from rich.console import Console
from writing import complete, remember

from stepstream import Client

SECONDS, SPEED = 30.0, 4.0  # of the electrocardiogram
HEARD = 3  # recordings in which speech is looked for
FAN = Path("build/demo_fan.png")


@contextmanager
def all_models() -> Iterator[Path]:
    """A folder of the shipped models, and of the detector where it was fetched."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in MODELS.iterdir():
            (folder / path.name).symlink_to(path)
        if not missing(SILERO):
            VAD.bundle(folder / "vad")
        yield folder


async def run(console: Console) -> int:
    """The whole demonstration. Returns the exit code."""
    with all_models() as folder:
        async with running_server(folder) as server, Client(server.address) as client:
            console.rule("time series")
            await watch(client, read_readings(SECONDS), SPEED, console)
            await forecast(client, read_readings(math.inf), console, FAN)
            console.rule("text")
            await complete(client, console)
            await remember(client, console)
            console.rule("sentiment")
            await score(client, console)
            console.rule("translation")
            await translate(client, console)
            console.rule("speech")
            await hear(client, console)
            await _notice_all(client, console)
    console.print(f"Server stopped with exit code {server.exit_code}")
    return int(server.exit_code != 0)


async def _notice_all(client: Client, console: Console) -> None:
    if why := missing(SILERO, RECORDINGS):
        console.print(f"Speech is not looked for: {why}\n", markup=False)
        return
    for recording in files(RECORDINGS)[:HEARD]:
        await notice(client, console, recording, speed=1.0)


def main() -> int:
    """Runs the whole demonstration."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    console = Console()
    return conclude(run(console), console)


if __name__ == "__main__":
    sys.exit(main())
