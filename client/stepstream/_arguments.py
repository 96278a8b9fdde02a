"""Checks of what callers give beside values, before anything is sent: versions, counts, times. Pure."""

from __future__ import annotations

import math
from datetime import timedelta

from stepstream._errors import InvalidArgument

MAX_COUNT = 2**64 - 1  # counts and numbers of steps are uint64 on the wire
MAX_VERSION = 2**32 - 1
MAX_SECONDS = 315_576_000_000  # 10,000 years: the longest that a protobuf Duration may be


def version_number(version: int | None) -> int:
    """The contract's number of a version: 0 for None, the newest served. Raises InvalidArgument."""
    return 0 if version is None else _whole("version", version, 1, MAX_VERSION)


def step_count(name: str, count: int) -> int:
    """A number of steps, or of one step, from 0. Raises InvalidArgument naming it."""
    return _whole(name, count, 0, MAX_COUNT)


def at_least_one(name: str, count: int) -> int:
    """How many there shall be. Raises InvalidArgument naming it."""
    return _whole(name, count, 1, MAX_VERSION)


def duration(name: str, seconds: float) -> timedelta:
    """A time that something may take. Raises InvalidArgument naming it, for nan too."""
    if not (math.isfinite(seconds) and 0 < seconds <= MAX_SECONDS):
        raise InvalidArgument(f"{name}: expected a positive number of seconds up to {MAX_SECONDS}, got {seconds!r}")
    return timedelta(seconds=seconds)


def _whole(name: str, value: int, lowest: int, highest: int) -> int:
    if not lowest <= value <= highest:
        raise InvalidArgument(f"{name}: expected at least {lowest} and at most {highest}, got {value!r}")
    return value
