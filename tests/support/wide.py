"""Counting models with large outputs: the running sum, told many times over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from stepstream_server.engine.ports import Computed
from stepstream_server.spec import HeadSpec, ModelSpec, TensorSpec
from support.backend import FakeBackend, counter_spec


@dataclasses.dataclass
class WideBackend(FakeBackend):
    """Gives the sum `width` times."""

    width: int = 1

    def collect(self, ticket: Any) -> Computed:
        """The other one's, wider."""
        computed = super().collect(ticket)
        sums, counts = computed.outputs
        return Computed((np.repeat(sums, self.width, axis=-1), counts), computed.faults)


def wide_spec(width: int) -> Callable[[str], ModelSpec]:
    """Like `counter`, but for the width of its sum: 4 * width + 4 bytes of outputs per step."""

    def spec(name: str) -> ModelSpec:
        counter = counter_spec(name)
        outputs = (TensorSpec("sum", "float32", (width,)), counter.outputs[1])
        return dataclasses.replace(counter, outputs=outputs, heads=(HeadSpec("sum", "regression", width), counter.heads[1]))

    return spec
