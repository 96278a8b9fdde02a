"""A server whose device fails: the real command, with a backend that raises over an input of 13, and over an export."""

from __future__ import annotations

from typing import Any

import numpy as np

from stepstream_server import backends, cli
from stepstream_server.engine.ports import Ints, Tensor

_build = backends.build


class UnluckyBackend:
    """A backend that breaks down over one number, and over whatever is read from it."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Any:
        """The other one's, unless an input begins with 13."""
        if (inputs[0][..., 0] == np.float32(13)).any():
            raise RuntimeError("the device fell off the bus")
        return self._backend.launch(function, slots, inputs, length)

    def read(self, slots: Ints) -> dict[str, Tensor]:
        """Never the other one's."""
        raise RuntimeError("the device fell off the bus")


def build(*args: Any, **options: Any) -> Any:
    """In place of `backends.build`."""
    return UnluckyBackend(_build(*args, **options))


if __name__ == "__main__":
    backends.build = build
    cli.main()
