"""`stepstream complete`: a text on stdin, its continuation on stdout; and what others that roll models out share with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from stepstream import Client, ClientOptions, InvalidArgument, ModelInfo
from stepstream.cli import show
from stepstream.cli.options import Misuse, Model, ModelVersion, Options
from stepstream.cli.pipes import read_all

RECONNECT_SECONDS = ClientOptions().reconnect_seconds

_DRAWN = "0: the likeliest; 1: as the model predicts; above: more at random."
Temperature = Annotated[float, typer.Option(min=0.0, metavar="T", help=_DRAWN)]


def own_temperature(otherwise: float) -> Any:
    """The option of a temperature that is the model's own unless given. otherwise: that of a model that does not say."""
    told = f"{_DRAWN} [default: as the model's author chose, or {otherwise:g}]"
    return typer.Option("--temperature", min=0.0, metavar="T", help=told)


TopK = Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="K", help="Draw among the K likeliest only. 0: no limit.")]
TopP = Annotated[
    float, typer.Option(min=0.0, max=1.0, metavar="P", help="Draw among the fewest that are likely by P together. 0: no limit.")
]
Stops = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="Ends it, unsaid; may be given several times. A line end is $'\\n' in bash."),
]
Seed = Annotated[
    int | None,
    typer.Option(min=0, max=2**64 - 1, metavar="N", help="The same gives the same, from the same state. [default: at random]"),
]


@dataclass
class Draws:
    """How tokens are drawn."""

    temperature: float | None
    top_k: int
    top_p: float
    seed: int | None
    stop: list[str] = field(default_factory=list)

    def arguments(self) -> dict[str, Any]:
        """As `generate` takes them."""
        return dict(vars(self))


@contextmanager
def misuse() -> Iterator[None]:
    """What is not as it must be comes from the flags or the input."""
    try:
        yield
    except InvalidArgument as error:
        raise Misuse(error.message) from None


async def model_of_text(client: Client, name: str, version: int | None) -> ModelInfo:
    """A model that text can be fed to. Raises Misuse for others."""
    model = await client.model(name, version)
    if not model.inputs[0].text or not model.rollout_output:
        raise Misuse(f"MODEL: expected a model of text, got {name}, which takes {', '.join(each.name for each in model.inputs)}")
    return model


async def complete(
    options: Options,
    model: Model,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="[default: all of stdin]", show_default=False)] = None,
    *,
    max_steps: Annotated[int, typer.Option(min=1, max=2**32 - 1, metavar="N", help="Draws at most.")] = 256,
    temperature: Annotated[float | None, own_temperature(1.0)] = None,
    top_k: TopK = 0,
    top_p: TopP = 0.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the likeliest.")] = False,
    stop: Stops = None,
    seed: Seed = None,
    model_version: ModelVersion = None,
) -> None:
    r"""Continues a text.

    Takes TEXT, or reads all of stdin, and writes what a model of text goes on with, as it comes: the continuation and nothing
    else, but for a line end behind that of TEXT. With --json it is one object, which also tells the seed and how it ended. The
    line end that `echo` adds is a part of the text.

    Examples:
        stepstream complete translate 'am dritten März <fr>'
        printf 'def mean(values):' | stepstream complete code --max-steps 200 --temperature 0.6
        stepstream complete code --greedy --stop $'\n\n' < beginning.py
    """
    prefix = await _read() if text is None else text
    async with options.client() as client:
        served = await model_of_text(client, model, model_version)
    draws = Draws(temperature, top_k, top_p, seed, stop or [])
    async with options.client(RECONNECT_SECONDS) as client:
        with misuse():
            rollout = client.generate(
                served.name, prefix, max_steps=max_steps, greedy=greedy, version=served.version, **draws.arguments()
            )
            async with aclosing(rollout):
                if options.json:
                    whole = await rollout.whole()
                    told = {"text": whole, "ending": rollout.ending, "seed": rollout.seed, "next_seq": rollout.next_seq}
                    typer.echo(show.document(told))
                else:
                    async for piece in rollout:
                        typer.echo(piece, nl=False)
                    typer.echo(nl=text is not None)


async def _read() -> str:
    read = await read_all()
    if not read:
        raise Misuse("stdin: expected a text to continue, got none")
    try:
        return read.decode()
    except UnicodeDecodeError as error:
        raise Misuse(f"stdin: expected UTF-8, got {error.object[error.start]:#x} at byte {error.start}") from None
