"""Models and sessions as text: aligned columns for people, one JSON document for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from numpy.typing import NDArray

from stepstream import ModelInfo, Outputs, Session, SessionInfo, TensorInfo
from stepstream.cli.columns import Chosen
from stepstream.cli.options import UNITS


def document(value: Any) -> str:
    """For --json."""
    return json.dumps(value, indent=2)


def line(value: Any) -> str:
    """For --json where there are several."""
    return json.dumps(value)


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns wide enough for what is in them: never cut off, so that it can be piped on."""
    lines = [[name.upper() for name in names], *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def duration(seconds: float) -> str:
    """In the unit that people would say it in."""
    unit, size = unit_of(seconds)
    return f"{seconds / size:.3g}{unit}" if unit == "ms" else f"{seconds / size:.0f}{unit}"


def unit_of(seconds: float) -> tuple[str, float]:
    """Name and seconds of that unit: the largest of which there are two, below a second ms."""
    if seconds < 1:
        return "ms", 0.001
    return next(((unit, size) for unit, size in reversed(UNITS.items()) if seconds >= 2 * size), ("s", 1))


def models(infos: Iterable[ModelInfo], *, as_json: bool) -> str:
    """What is served."""
    if as_json:
        return document([_model(info) for info in infos])
    rows = [
        (
            info.name,
            info.version,
            info.cell,
            " ".join(map(_tensor, info.inputs)),
            " ".join(map(_tensor, info.outputs)),
            "-" if info.time_step_seconds is None else duration(info.time_step_seconds),
            info.description,
        )
        for info in infos
    ]
    return table(("model", "version", "cell", "inputs", "outputs", "period", "description"), rows)


def sessions(infos: Iterable[SessionInfo], *, as_json: bool) -> str:
    """Who is open."""
    if as_json:
        return document([dataclasses.asdict(info) for info in infos])
    rows = [
        (
            info.id,
            info.model,
            info.version,
            "quarantined" if info.quarantined else "held" if info.attached else "free",
            "store" if info.stored else "memory",
            info.next_seq,
            info.pending_steps,
            info.next_seq - info.durable_seq if info.durable else "-",
            duration(info.age),
            duration(info.idle),
            "-" if info.stored else info.slot,
        )
        for info in infos
    ]
    return table(("session", "model", "version", "status", "where", "steps", "pending", "lag", "age", "idle", "slot"), rows)


def outputs(wanted: Sequence[Chosen], answer: Outputs, *, as_json: bool) -> str:
    """One step's. answer: [*shape] by name."""
    values = {each.name: each.numbers(answer[each.tensor.name][None])[0] for each in wanted}  # [columns] each
    if as_json:
        nested = {each.name: _exact(values[each.name].reshape(each.shape)) for each in wanted}
        return document({"outputs": nested})
    return "\n".join(f"{name} {' '.join(map(str, numbers))}" for name, numbers in values.items())


def owned(session: Session, *, as_json: bool, **more: object) -> str:
    """What the owner of a new session must know to find it again. more: further fields of the JSON."""
    return document({**_ownership(session), **more}) if as_json else _owned_table([session])


def all_owned(sessions: Sequence[Session], *, as_json: bool) -> str:
    """Tells what the owner of several new sessions must know to find them again."""
    return document([_ownership(each) for each in sessions]) if as_json else _owned_table(sessions)


def _ownership(session: Session) -> dict[str, Any]:
    model = session.model
    return {
        "model": model.name,
        "version": model.version,
        "id": session.id,
        "secret": session.secret.hex(),
        "next_seq": session.next_seq,
    }


def _owned_table(sessions: Sequence[Session]) -> str:
    return table(("session", "secret", "steps"), [(each.id, each.secret.hex(), each.next_seq) for each in sessions])


def _exact(numbers: NDArray[Any]) -> Any:
    """Nested lists whose numbers are written as shortly as tells them apart."""
    if numbers.ndim:
        return [_exact(each) for each in numbers]
    return float(str(numbers)) if numbers.dtype.kind == "f" else int(numbers)


def _model(info: ModelInfo) -> dict[str, Any]:
    record = {field.name: getattr(info, field.name) for field in dataclasses.fields(info)}
    return {**record, **{each: [_tensor_record(tensor) for tensor in record[each]] for each in ("inputs", "outputs", "states")}}


def _tensor_record(tensor: TensorInfo) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype.name if tensor.is_known else "unknown",
        "shape": list(tensor.shape),
        "limit": tensor.limit or None,
        "range": tensor.range or None,
        "text": tensor.text.codec if tensor.text else None,
        "description": tensor.description,
    }


def _tensor(tensor: TensorInfo) -> str:
    return tensor.name + "".join(f"[{size}]" for size in tensor.shape)
