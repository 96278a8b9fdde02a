"""Listens to digits in real time through a server, and prints each as it is recognised.

    python examples/speech/digits.py                    # strings joined from the recordings of fetch.py
    python examples/speech/digits.py mine.wav           # mono, 8 kHz, 16 bits

Samples are taken as a microphone would give them, 20 ms at a time; features and decoding are this side's, the model the server's.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `speech.…`, from wherever it is started

from speech import fetch
from speech.decoding import Decoder, matches
from speech.features import RATE, STEP, Floats, LogMel
from speech.held_out import person
from speech.joined import Utterance
from speech.recordings import read_wav
from speech.wav import WavError

from stepstream import Client, Session, StepStreamError


@dataclass(frozen=True, slots=True)
class Heard:
    """A word, as soon as it was recognised."""

    label: int
    at: float  # seconds since the stream began
    computed: float  # of that, seconds since the last sample that it took had come


async def spoken(samples: Floats) -> AsyncIterator[Floats]:
    """Samples [n] as a microphone would give them: those of 20 ms when they have been spoken."""
    began = asyncio.get_running_loop().time()
    for begin in range(0, len(samples), STEP):
        part = samples[begin : begin + STEP]
        await asyncio.sleep(began + (begin + len(part)) / RATE - asyncio.get_running_loop().time())
        yield part


async def listen(session: Session, parts: AsyncIterator[Floats]) -> AsyncIterator[Heard]:
    """Words as they are recognised while parts of the samples come."""
    began, came = asyncio.get_running_loop().time(), 0
    features, decoder = LogMel(), Decoder()
    async for part in parts:
        came += len(part)
        for step in features.feed(part):
            scores = (await session.step(step))["symbol"]
            for _, label in decoder.feed([scores]):
                now = asyncio.get_running_loop().time() - began
                yield Heard(label, now, now - came / RATE)


async def follow(client: Client, utterance: Utterance, labels: tuple[str, ...]) -> tuple[list[Heard], int]:
    """Prints words as they are heard in a session of their own; returns them, and how many errors they hold."""
    heard = []
    async with client.open_session("digits") as session:
        async for word in listen(session, spoken(utterance.samples)):
            heard.append(word)
            print(f"{word.at:6.2f} s  {labels[word.label]:6}{_beside_an_end(word.at, utterance)}", flush=True)
    return heard, matches(utterance.words, [word.label - 1 for word in heard])[0]


def _beside_an_end(at: float, utterance: Utterance) -> str:
    """How a moment lies to the nearest end of a word; nothing where ends are not known."""
    if not utterance.ends:
        return ""
    late = min((at - end / RATE for end in utterance.ends), key=abs)
    return f"{1000 * abs(late):4.0f} ms {'after' if late >= 0 else 'before'} a word's end"


def summary(utterances: list[Utterance], heard: list[list[Heard]]) -> str:
    """Delays of the words that were heard rightly: from their ends, and what of that was not waiting for samples."""
    delays, computed = [], []
    for utterance, words in zip(utterances, heard, strict=True):
        for place, other in matches(utterance.words, [word.label - 1 for word in words])[1]:
            delays.append(words[other].at - utterance.ends[place] / RATE)
            computed.append(words[other].computed)
    if not delays:
        return "nothing was heard rightly"
    late, own = (1000 * np.percentile(each, [50, 99]) for each in (delays, computed))
    own_part = f"of that computing and transport p50 {own[0]:.1f} ms, p99 {own[1]:.1f} ms"
    return f"delay p50 {late[0]:.0f} ms, p99 {late[1]:.0f} ms; {own_part}"


async def run(options: argparse.Namespace) -> None:
    """Listens to a file, or to strings of both people."""
    said = None if options.wav is None else read_wav(options.wav)
    async with Client(options.server) as client:
        labels = (await client.model("digits")).outputs[0].labels
        if said is not None:
            await follow(client, Utterance(said, (), ()), labels)
            return
        for name in fetch.PEOPLE:
            utterances, found = person(name, options.strings), []
            for utterance in utterances:
                print(f"\n{name}: {' '.join(labels[1 + word] for word in utterance.words)}")
                heard, errors = await follow(client, utterance, labels)
                found.append(heard)
                print(f"{errors} errors in {len(utterance.words)} digits")
            print(f"\n{name}: {summary(utterances, found)}")


def main() -> None:
    """Reads the arguments and listens; ends with code 1, and the reason, if it cannot, and with 130 at Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wav", type=Path, nargs="?", help="default: strings joined from the fetched recordings")
    parser.add_argument("--server", default="127.0.0.1:8101", help="default: %(default)s")
    parser.add_argument("--strings", type=int, default=3, help="of each person; default: %(default)s")
    options = parser.parse_args()
    if options.wav is None and (why := fetch.missing()):
        sys.exit(why)
    try:
        asyncio.run(run(options))
    except KeyboardInterrupt:
        sys.exit(130)
    except (WavError, StepStreamError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
