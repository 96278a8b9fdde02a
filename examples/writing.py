"""The demo's models of text: code that goes on by itself, and a story that is remembered to its last word."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from stepstream import Client

CODE_PROMPT = "class Stack:\n    def __init__(self, items=None):\n"
CODE_BYTES = 340
CODE_TEMPERATURE, CODE_SEED = 0.5, 3
STORY = (
    "I grew up in Pakistan.",
    "My father once flew to Spain.",
    "Our teacher cooked rice every Sunday.",
    "The house had seven rooms and a green garden.",
    "We watched a film about Iceland.",
    "My sister played chess with us when it was warm.",
    "In winter we ate soup and bread.",
    "My brother wrote a letter to Japan every spring.",
    "I still remember the quiet summer by the river.",
    "The horse was old but not cold.",
    "A nurse from Kenya lived near the station.",
    "Every morning we walked to the market.",
)
QUESTION = "I speak fluent"
STATE_NUMBERS = 256  # h and c


async def complete(client: Client, console: Console) -> None:
    """A function, begun here and gone on with by the model, byte by byte."""
    console.print("\n[bold]A model of code[/bold], trained on Python's standard library, goes on with two lines:\n")
    console.print(Text(CODE_PROMPT, style="bright_black"), end="")
    rollout = client.generate("code", CODE_PROMPT, max_steps=CODE_BYTES, temperature=CODE_TEMPERATURE, seed=CODE_SEED)
    async for piece in rollout:
        console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n\n{CODE_BYTES} bytes, seed {rollout.seed}: the same whenever they are asked for.", highlight=False)
    console.print("It has learnt how code looks, not what it does.\n")


async def remember(client: Client, console: Console) -> None:
    """A story is told in one session, sentence by sentence; what is asked in the end was said in the first."""
    console.print("[bold]A model that remembers[/bold]: a session is told a story, sentence by sentence, and asked a question.\n")
    async with client.open_session("memory") as session:
        for sentence in STORY:
            await session.chunk(sentence, outputs="none")
        answer = await session.generate(QUESTION, max_steps=1, greedy=True).whole()
        told = session.next_seq
    console.print(" ".join([*STORY, QUESTION]) + f"[bold green]{answer}[/bold green].", highlight=False)
    console.print(f"\n{told} words; what is left of them is h and c, {STATE_NUMBERS} numbers.\n", highlight=False)
