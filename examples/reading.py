"""The demo's models that read: a sentence whose score turns, and dates that are translated."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text
from sentiment.colours import colour
from sentiment.sentences import WORD

from stepstream import Client

SENTENCES = (
    "This movie is great.",
    "This movie is not great.",
    "I wanted to love it, but it is a complete waste of time!",
)
PHRASES = (
    "am dritten März <fr>",
    "the twenty-first of June 2014 <de>",
    "quatre-vingt-dix-sept <es>",
    "half past eight <fr>",
)
LONGEST = 40  # pieces of a translation; the end token comes before


async def score(client: Client, console: Console) -> None:
    """Sentences, word by word, each word a step and coloured by how the sentence sounds so far."""
    console.print("[bold]A model of sentiment[/bold] scores a sentence after each word, from -4 to 4:\n")
    for sentence in SENTENCES:
        async with client.open_session("sentiment") as session:
            scores = (await session.chunk(sentence))["score"][:, 0]
        shown = Text()
        for word, value in zip(WORD.findall(sentence), scores.tolist(), strict=True):
            shown.append(f"{word} {value:+.1f}  ", style=colour(value))
        console.print(shown)
    console.print()


async def translate(client: Client, console: Console) -> None:
    """Dates, times and numbers, each read first and then written, by one step function."""
    console.print("[bold]A model that translates[/bold] dates, times and numbers reads a text, and writes behind its tag:\n")
    for phrase in PHRASES:
        translation = await client.generate("translate", phrase, max_steps=LONGEST).whole()
        console.print(f"{phrase}  →  ", end="", markup=False, highlight=False)
        console.print(translation, style="bold green", markup=False, highlight=False)
    console.print()
