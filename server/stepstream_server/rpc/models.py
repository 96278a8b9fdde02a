"""Which models are served, by name and version, each with its door to an engine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from stepstream_server.errors import CallerError, Reason, ServerFault
from stepstream_server.rpc.door import ModelDoor
from stepstream_server.spec import ModelSpec

_SHOWN = 128  # characters of a wrong name that its error repeats


class Models:
    """Empty until `publish`, which happens once every model is warm."""

    def __init__(self, expected: Sequence[ModelSpec] = ()) -> None:
        self._expected = expected  # what `publish` is going to bring
        self._doors: dict[str, dict[int, ModelDoor]] = {}
        self._published = False
        self._numbers = itertools.count()

    def publish(self, doors: Sequence[ModelDoor]) -> None:
        """From now on these models are served."""
        for door in doors:
            self._doors.setdefault(door.spec.name, {})[door.spec.version] = door
        self._published = True

    def all(self) -> list[ModelDoor]:
        """By name, then version. Raises ServerFault(MODEL_NOT_READY) before `publish`."""
        self._require_published()
        return [versions[version] for _, versions in sorted(self._doors.items()) for version in sorted(versions)]

    @property
    def specs(self) -> list[ModelSpec]:
        """By name, then version; before `publish` of the models that are being warmed up."""
        if self._published:
            return [door.spec for door in self.all()]
        return sorted(self._expected, key=lambda spec: (spec.name, spec.version))

    @property
    def published(self) -> bool:
        """Whether models can be found."""
        return self._published

    def find(self, name: str, version: int) -> ModelDoor:
        """Version 0 is the newest. Raises CallerError(MODEL_NOT_FOUND), ServerFault(MODEL_NOT_READY) before `publish`."""
        self._require_published()
        versions = self._doors.get(name)
        if versions is None:
            served = ", ".join(sorted(self._doors)) or "none"
            raise CallerError(Reason.MODEL_NOT_FOUND, f"model: {name[:_SHOWN]!r} is not served; served: {served}", field="model")
        door = versions.get(version or max(versions))
        if door is None:
            served = ", ".join(map(str, sorted(versions)))
            raise CallerError(
                Reason.MODEL_NOT_FOUND, f"version: {name!r} has no version {version}; served: {served}", field="version"
            )
        return door

    def next_stream(self) -> int:
        """A number for a stream or a one-shot call; never given twice, whichever engine it is used with."""
        return next(self._numbers)

    def _require_published(self) -> None:
        if not self._published:
            raise ServerFault(Reason.MODEL_NOT_READY, "models are being warmed up")
