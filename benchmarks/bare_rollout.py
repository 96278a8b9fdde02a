"""The bare rollout: the bare kernel on one row, fed with what the server's own drawing makes of its output; nothing around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.kernel import Floats, bind_model
from stepstream_server.config import BackendSettings
from stepstream_server.engine.ports import NO_SEQ, Commit, Generate
from stepstream_server.engine.rollouts.sampling import Draws
from stepstream_server.spec import ModelSpec

_ROW = np.zeros(1, np.int64)


class BareRollout:
    """One rollout of a model of text, drawn without an end. It knows no turns, no sessions, no messages and no stop."""

    def __init__(
        self, spec: ModelSpec, weights: Mapping[str, Floats], prompt: Sequence[int], temperature: float, seed: int
    ) -> None:
        """Feeds the prompt. Raises ValueError if the model does not predict its next token."""
        head = spec.rollout_head
        if head is None or head.kind != "next_token":
            raise ValueError(f"{spec.name}: expected a model that predicts its next token")
        self._kernel = bind_model(spec, weights, BackendSettings(), 1, 1)
        self._input = self._kernel.place(f"input.{spec.inputs[0].name}")
        self._output = self._kernel.place(f"output.{head.name}")
        self._draws = Draws(head, 1)
        self._draws.begin(_ROW, Generate(0, 0, "", b"", NO_SEQ, Commit.NONE, (), 1, 0.0, temperature, seed=seed))
        self._seq = np.zeros(1, np.int64)  # number of the next step
        for token in prompt:
            self._step(token)

    def draw(self, steps: int) -> list[int]:
        """Draws so many tokens, each of them the input of the next step."""
        drawn = []
        for _ in range(steps):
            token = int(self._draws.draw(_ROW, self._seq)[0])
            self._step(token)
            drawn.append(token)
        return drawn

    def _step(self, token: int) -> None:
        self._input[...] = token
        self._kernel()
        self._draws.last[...] = self._output[0]
        self._seq += 1
