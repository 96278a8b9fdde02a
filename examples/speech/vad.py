"""Tells when somebody speaks in a recording, as it is heard: Silero's voice activity detector at a StepStream server.

Feeds a wav file (16 kHz, one channel, 16 bits) at its natural rate, 512 samples a step, and prints each segment of speech as soon
as it has ended. `--serve` starts a server for it; else one has to serve the model, which `--pack` makes of what
`examples/programs/fetch.py` fetched. Ctrl-C stops it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `speech.…`, from wherever it is started

from monitor.server import ServerFailed, running_server
from speech.segments import RATE, STEP, Segment, Segmenter
from speech.wav import WavError, read

from stepstream import Client, ModelNotFound, Session, StepStreamError, Unavailable

Samples = NDArray[np.int16]
MODELS = Path(__file__).parents[2] / "build" / "speech"  # git ignores it
MODEL = "vad"
ADVICE = "--serve starts a server that has it; --pack makes the bundle, and says how to serve it"
ADDRESS = "127.0.0.1:8101"  # where `stepstream-server serve` listens by default


class Unfit(Exception):
    """The server, or what was fetched, is not what this needs."""


def pack() -> Path:
    """The folder of models with the detector in it, written if it is not there. Raises Unfit if its file was not fetched."""
    from programs.fetch import SILERO, missing
    from programs.published import VAD

    if not (MODELS / MODEL / "model.json").exists():
        if why := missing(SILERO):
            raise Unfit(why)
        VAD.bundle(MODELS / MODEL)
    return MODELS


def steps_of(samples: Samples) -> Iterator[NDArray[np.float32]]:
    """Steps [STEP] of a recording [n], full scale 1; the last is filled up with silence."""
    for begin in range(0, len(samples), STEP):
        step = np.zeros(STEP, np.float32)
        heard = samples[begin : begin + STEP]
        step[: len(heard)] = heard / np.float32(32768)
        yield step


async def paced(samples: Samples, speed: float) -> AsyncIterator[NDArray[np.float32]]:
    """The steps, each when its last sample has been heard, `speed` times as fast as in life."""
    clock = asyncio.get_running_loop().time
    began = clock()
    for number, step in enumerate(steps_of(samples), start=1):
        await asyncio.sleep(began + number * STEP / (RATE * speed) - clock())
        yield step


async def listen(session: Session, samples: Samples, speed: float) -> AsyncIterator[Segment]:
    """The segments of a recording, each as soon as it has ended."""
    segmenter = Segmenter()
    async for outputs in session.stream(paced(samples, speed)):
        for segment in segmenter.feed(outputs["speech"].tolist()):
            yield segment
    for segment in segmenter.finish(len(samples)):
        yield segment


@asynccontextmanager
async def detector(client: Client, model: str) -> AsyncIterator[Session]:
    """A session of the detector. Raises Unfit if the server has none, or another model of that name."""
    try:
        async with client.open_session(model) as session:
            _check(session)
            yield session
    except ModelNotFound:
        served = ", ".join(each.name for each in await client.models()) or "none at all"
        raise Unfit(f"the server has no model {model}, only {served}: {ADVICE}") from None


def _check(session: Session) -> None:
    """Raises Unfit for a session of another kind of model."""
    info = session.model
    found = [(each.name, each.shape) for each in (*info.inputs, *info.outputs)]
    expected = [("audio", (STEP,)), ("speech", (1,))]
    if found != expected:
        raise Unfit(f"{info.name}: expected a model from audio to speech, {expected}, got {found}")


async def run(options: argparse.Namespace) -> None:
    """Prints the segments of the recording."""
    samples = read(options.wav, RATE)
    async with _client(options) as client, detector(client, options.model) as session:
        async for segment in listen(session, samples, options.speed):
            print(segment, flush=True)


@asynccontextmanager
async def _client(options: argparse.Namespace) -> AsyncIterator[Client]:
    if not options.serve:
        async with Client(options.server) as client:
            yield client
        return
    async with running_server(pack()) as server, Client(server.address) as client:
        yield client


async def stoppable(options: argparse.Namespace) -> None:
    """Lets SIGTERM stop it as Ctrl-C does, so that no server is left behind."""
    task = asyncio.create_task(run(options))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await task


def positive(text: str) -> float:
    """An argument's value."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected more than 0, got {text}")
    return value


def main() -> int:
    """Reads the arguments and runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wav", type=Path, nargs="?", help="recording")
    parser.add_argument("--speed", type=positive, default=1.0, help="times as fast as in life; default: %(default)s")
    parser.add_argument("--server", default=ADDRESS, metavar="HOST:PORT", help="default: %(default)s")
    parser.add_argument("--model", default=MODEL, help="its name there; default: %(default)s")
    parser.add_argument("--serve", action="store_true", help="start a server that ends with this")
    parser.add_argument("--pack", action="store_true", help="only make the bundle, and say how to serve it")
    options = parser.parse_args()
    if bool(options.wav) == options.pack:
        parser.error("expected a recording, or --pack")
    try:
        if options.pack:
            print(f"stepstream-server serve --models {pack()}")
        else:
            asyncio.run(stoppable(options))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("Stopped.", file=sys.stderr)
        return 130
    except (Unfit, WavError, ServerFailed, StepStreamError, OSError) as error:
        advice = [ADVICE] if isinstance(error, Unavailable) else []
        print("\n".join([str(error), *getattr(error, "__notes__", []), *advice]), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
