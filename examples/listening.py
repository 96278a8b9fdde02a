"""The demo's models that listen: digits and speech, told while they are spoken."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from speech.digits import listen as listen_for_digits
from speech.digits import spoken
from speech.recordings import read_wav
from speech.segments import RATE
from speech.vad import listen as listen_for_speech
from speech.wav import read

from stepstream import Client

SPOKEN = Path(__file__).parent / "speech" / "spoken.wav"  # a synthetic voice that was kept from training


async def hear(client: Client, console: Console) -> None:
    """A string of digits, fed as a microphone would give it; each is shown when it is recognised."""
    console.print("[bold]A model that listens[/bold] hears a string of digits in real time, 50 steps a second:\n")
    async with client.open_session("digits") as session:
        labels = session.model.outputs[0].labels
        async for word in listen_for_digits(session, spoken(read_wav(SPOKEN))):
            console.print(f"[bold green]{labels[word.label]}[/bold green] at {word.at:.1f} s  ", end="", highlight=False)
    console.print("\n")


async def notice(client: Client, console: Console, recording: Path, speed: float) -> None:
    """A recording of 16 kHz; each segment of speech is shown when it has ended."""
    samples = read(recording, RATE)
    seconds = len(samples) / RATE
    console.print(f"[bold]A model that notices speech[/bold], Silero's, hears a recording of {seconds:.0f} s:\n")
    async with client.open_session("vad") as session:
        async for segment in listen_for_speech(session, samples, speed):
            console.print(f"speech from {segment}, told at {segment.told / RATE:.2f} s", highlight=False)
    console.print()
