"""The error of a call for many sessions: who failed, why, and what the others got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stepstream._errors import StepStreamError


class GroupError(StepStreamError, ExceptionGroup[StepStreamError]):
    """Some sessions of a group failed. `except*` with any class of this module picks out theirs.

    errors: by index in the group. ok: bool [N], the sessions that did not fail. outputs: as the call would have returned them,
    [N, ...]; what failed is NaN in float outputs and 0 in others. None where the call has no outputs.
    """

    errors: Mapping[int, StepStreamError]

    def __new__(
        cls,
        errors: Mapping[int, StepStreamError],
        ok: NDArray[np.bool_],
        outputs: Mapping[str, NDArray[Any]] | None = None,
    ) -> Self:
        return super().__new__(cls, cls._summary(errors, len(ok)), list(errors.values()))

    def __init__(
        self,
        errors: Mapping[int, StepStreamError],
        ok: NDArray[np.bool_],
        outputs: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        first = next(iter(errors.values()))
        super().__init__(self._summary(errors, len(ok)), code=first.code, reason=first.reason, retry_delay=first.retry_delay)
        self.errors = dict(errors)
        self.ok = ok
        self.outputs = outputs

    def derive(self, excs: Sequence[StepStreamError], /) -> GroupError:  # type: ignore[override]
        """The part of this error that `except*` picked out: same indices, same outputs."""
        picked = {index: error for index, error in self.errors.items() if any(error is each for each in excs)}
        return GroupError(picked, self.ok, self.outputs)

    @staticmethod
    def _summary(errors: Mapping[int, StepStreamError], count: int) -> str:
        index, first = next(iter(errors.items()))
        return f"{len(errors)} of {count} sessions failed; first, at index {index}: {first.message}"
