"""A program of inputs, states and outputs of every dtype that anybody can follow by hand: what goes in comes back added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stepstream_server.engine.ports import Computed, Ints, Tensor
from stepstream_server.spec import GraphState, GraphTensor, HeadSpec, ModelSpec, Program, StateSpec, TensorSpec
from support.backend import FakeBackend

RANGE = 1.5  # of `level`
TOKENS = 7  # of `token`
BEGIN = 5  # what `total` begins with


def mixed_spec(name: str = "mixed") -> ModelSpec:
    """level float32 [2], count int32 [], token int64 [], flag bool [2] -> level as it came, total int32 [] of counts from BEGIN
    on, token as it came, and seen bool [2]: which flags were ever set."""
    inputs = (
        TensorSpec("level", "float32", (2,), range=RANGE),
        TensorSpec("count", "int32", ()),
        TensorSpec("token", "int64", (), limit=TOKENS),
        TensorSpec("flag", "bool", (2,)),
    )
    outputs = (
        TensorSpec("level", "float32", (2,)),
        TensorSpec("total", "int32", ()),
        TensorSpec("token", "int64", ()),
        TensorSpec("seen", "bool", (2,)),
    )
    program = Program(
        inputs=tuple(GraphTensor(each.name) for each in inputs),
        carry=(0,) * len(inputs),
        states=(GraphState("level", "level_next"), GraphState("total", "total_next"), GraphState("seen", "seen_next")),
        outputs=tuple(GraphTensor(each.name) for each in outputs),
    )
    return ModelSpec(
        name=name,
        version=1,
        inputs=inputs,
        outputs=outputs,
        states=(
            StateSpec("level", (2,)),
            StateSpec("total", (), "int32", (BEGIN,)),
            StateSpec("seen", (2,), "bool"),
        ),
        computation=program,
        heads=tuple(HeadSpec(each.name, "regression", each.elements) for each in outputs),
        fingerprint="3" * 64,
    )


@dataclass
class MixedBackend(FakeBackend):
    """Computes it, in batches of `batching` rows as far as anybody is told."""

    state_bytes: int = mixed_spec().state_bytes
    batching: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rows = {each.name: each.initial_value[None].repeat(self.slots, axis=0) for each in mixed_spec().states}

    def zero(self, slots: Ints) -> None:
        for each in mixed_spec().states:
            self.rows[each.name][slots] = each.initial_value

    def copy(self, sources: Ints, targets: Ints) -> None:
        for rows in self.rows.values():
            rows[targets] = rows[sources]

    def read(self, slots: Ints) -> dict[str, Tensor]:
        return {name: rows[slots] for name, rows in self.rows.items()}

    def write(self, slots: Ints, states: dict[str, Tensor]) -> None:
        for name, rows in self.rows.items():
            rows[slots] = states[name]

    def launch(self, function: str, slots: Ints, inputs: tuple[Tensor, ...], length: int) -> Any:
        self.before_launch()
        level, count, token, flag = inputs
        self.launches.append((len(slots), length))
        total = self.rows["total"][slots][:, None] + np.cumsum(count, axis=1, dtype=np.int32)
        seen = self.rows["seen"][slots][:, None] | np.logical_or.accumulate(flag, axis=1)
        return slots, (level.copy(), total, token.copy(), seen)

    def collect(self, ticket: Any) -> Computed:
        self.before_collect()
        slots, outputs = ticket
        level, total, _, seen = outputs
        self.write(slots, {"level": level[:, -1], "total": total[:, -1], "seen": seen[:, -1]})
        return Computed(outputs, None)
