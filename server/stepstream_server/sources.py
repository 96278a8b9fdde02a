"""Where settings come from: flags, environment, TOML file, defaults, the first of them that names a key.

All three become the same thing, a value and its source per dotted key (`engine.capacity`), so precedence is one line and each
error can say who is to blame. This module is handed the environment; it does not read the process's own.

Settings of single models are in tables by name, `[model.NAME]`, which the file alone has: names of models hold what no name of a
variable can.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from stepstream_server.config import Settings

PREFIX = "STEPSTREAM_"
CONFIG_VARIABLE = "STEPSTREAM_CONFIG"
# Of the command `stepstream`, often used from the same shell.
CLIENT_VARIABLES = {"STEPSTREAM_SERVER", "STEPSTREAM_SECRET", "STEPSTREAM_TOKEN"}

# Kubernetes gives every pod such variables for each Service of its namespace; one named `stepstream` or `stepstream-metrics`
# would otherwise keep the server from starting.
_SERVICE_LINK = re.compile(r"STEPSTREAM_([A-Z0-9]+_)*(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


_NAME = "NAME"  # in keys: whatever a table is named after
_MODEL_HINT = "; settings of single models are in tables [model.NAME] of a file alone"


class SettingsError(Exception):
    """Settings that cannot be used. The message has one line per fault: source, key, what was expected, what came."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value that somebody gave for a key, and who, in words."""

    value: object
    source: str


def fields(record: type[BaseModel] = Settings, above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting as (dotted key, field), in the order of the records; of tables by name with NAME in the key."""
    for name, field in record.model_fields.items():
        if _is_record(field.annotation):
            yield from fields(field.annotation, f"{above}{name}.")
        elif (of_each := get_args(field.annotation)[-1:]) and _is_record(of_each[0]):
            yield from fields(of_each[0], f"{above}{name}.{_NAME}.")
        else:
            yield above + name, field


def _is_record(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def in_file_alone(key: str) -> bool:
    """Tells whether a key of `fields` is in tables by name, which neither flags nor variables have."""
    return f".{_NAME}." in key


def variable(key: str) -> str:
    """The environment variable of a key: `engine.capacity` -> `STEPSTREAM_ENGINE__CAPACITY`."""
    return PREFIX + key.replace(".", "__").upper()


def load(flags: Mapping[str, str], environment: Mapping[str, str], config: Path | None = None) -> Settings:
    """Settings from flags (dotted key -> text), environment and a TOML file, in that precedence.

    The file is `config`, or the one that STEPSTREAM_CONFIG names, or none. Raises SettingsError.
    """
    faults: list[str] = []
    given = _given(flags, environment, config, faults)
    if not faults:
        try:
            return Settings.model_validate(_nested(given))
        except ValidationError as error:
            faults = [_fault(given, ".".join(map(str, each["loc"])), each["msg"], each["input"]) for each in error.errors()]
    raise SettingsError("\n".join(faults)) from None


def source(key: str, flags: Mapping[str, str], environment: Mapping[str, str], config: Path | None = None) -> str:
    """Who names a setting, in words: a flag, a variable, a file, or `default` if none of them does. Raises SettingsError."""
    given = _given(flags, environment, config, []).get(key)
    return given.source if given else "default"


def _given(flags: Mapping[str, str], environment: Mapping[str, str], config: Path | None, faults: list[str]) -> dict[str, Given]:
    if config is None and environment.get(CONFIG_VARIABLE):
        config = Path(environment[CONFIG_VARIABLE])
    return {
        **_from_file(config, faults),
        **_from_environment(environment, faults),
        **{key: Given(value, f"flag --{key}") for key, value in flags.items()},
    }


def _from_file(path: Path | None, faults: list[str]) -> dict[str, Given]:
    if path is None:
        return {}
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"file {path}: expected readable TOML; {error}") from None
    known = [key for key, _ in fields()]
    found = dict(_flat(tree))
    faults += [f"file {path}: unknown key {key!r}{_nearest(key)}" for key in found if _declared(key) not in known]
    return {key: Given(value, f"file {path}") for key, value in found.items()}


def _from_environment(environment: Mapping[str, str], faults: list[str]) -> dict[str, Given]:
    known = {variable(key) for key, _ in fields() if not in_file_alone(key)}
    ours = [name for name in environment if name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(name)]
    ours = [name for name in ours if name not in {CONFIG_VARIABLE, *CLIENT_VARIABLES}]
    faults += [f"environment: unknown variable {name}{_nearest_variable(name)}" for name in ours if name not in known]
    return {_key(name): Given(environment[name], f"environment {name}") for name in ours if name in known}


def _key(variable: str) -> str:
    return variable.removeprefix(PREFIX).lower().replace("__", ".")


def _declared(key: str) -> str:
    """The key as `fields` has it, with NAME for the name of a model, which may hold dots."""
    table, _, name = key.rpartition(".")
    return f"model.{_NAME}.{name}" if table.startswith("model.") else key


def _nearest(key: str, spelled: Callable[[str], str] = str) -> str:
    close = difflib.get_close_matches(key, [known for known, _ in fields()], n=1)
    return f"; did you mean {spelled(close[0])}?" if close else ""


def _nearest_variable(name: str) -> str:
    key = _key(name)
    return _MODEL_HINT if key.startswith("model.") else _nearest(key, variable)


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield above + name, value


def _nested(given: Mapping[str, Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, each in given.items():
        section, _, name = key.rpartition(".")
        table = tree
        for part in section.split(".", 1) if section else ():  # a model's name may hold dots
            table = table.setdefault(part, {})
        table[name] = each.value
    return tree


def _fault(given: Mapping[str, Given], key: str, message: str, value: object) -> str:
    message = message.removeprefix("Value error, ").replace("Input should", "must").replace("String should", "must")
    if key in given:
        return f"{given[key].source}: {key}: {message}; got {value!r}"
    concerned = ", ".join(f"{each.source} ({name})" for name, each in given.items() if name.startswith(f"{key}."))
    return f"{concerned}: {key}: {message}"
