"""Every public method of the asynchronous client has its blocking twin, with the same parameters and annotations."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, get_overloads

import pytest

import stepstream
from stepstream import sync
from support.background import in_background
from support.servicer import FakeServicer, serving

PAIRS = [(stepstream.Client, sync.Client), (stepstream.Session, sync.Session), (stepstream.SessionGroup, sync.SessionGroup)]
RENAMED = {"aclose": "close"}  # of what is iterated; pairs are those of contexts
REPLACED = [  # what has no meaning without a loop, and what stands for it
    (r"Opening\[(\w+)\]", r"\1"),
    (r"AsyncGenerator\[(\w+), None\]", r"Generator[\1, None, None]"),
    (r"Iterable\[Values\] \| AsyncIterable\[Values\]", "Iterable[Values]"),
]


def public(kind: type) -> dict[str, Any]:
    """Public members by name, inherited ones too."""
    return {name: member for name, member in inspect.getmembers(kind) if not name.startswith("_")}


def shape(function: Callable[..., Any]) -> str:
    """A function's parameters, annotations and result, as they would be without a loop."""
    text = str(inspect.signature(function)).replace("'", "")
    for pattern, replacement in REPLACED:
        text = re.sub(pattern, replacement, text)
    return text


METHODS = [
    pytest.param(member, twin, name, id=f"{twin.__name__}.{name}")
    for original, twin in [*PAIRS, (stepstream.Rollout, sync.Rollout)]
    for name, member in public(original).items()
    if inspect.isfunction(member)
]


@pytest.mark.parametrize(("original", "twin", "name"), METHODS)
def test_each_method_has_its_twin(original: Callable[..., Any], twin: type, name: str) -> None:
    """Names, order, kinds, defaults and annotations agree, overload by overload; and the twin does not make one wait for it."""
    blocking = getattr(twin, RENAMED.get(name, name))
    assert shape(blocking) == shape(original)
    assert list(map(shape, get_overloads(blocking))) == list(map(shape, get_overloads(original)))
    assert not inspect.iscoroutinefunction(blocking)
    assert not inspect.isasyncgenfunction(blocking)
    assert blocking.__doc__


def test_a_client_is_made_in_the_same_way() -> None:
    """Callers make clients themselves, and get sessions and groups from them."""
    assert shape(sync.Client) == shape(stepstream.Client)


@pytest.mark.parametrize(("original", "twin"), PAIRS, ids=lambda kind: kind.__module__)
def test_the_twin_has_nothing_of_its_own(original: type, twin: type) -> None:
    """There is nothing public that only the blocking client has, but for attributes that the other sets on its instances."""
    attributes = {"draining", "model", "bitwise"}
    assert set(public(twin)) - attributes == set(public(original)) - attributes


def test_each_attribute_has_its_twin() -> None:
    """What the asynchronous objects carry as plain attributes, their twins have as well."""
    with in_background(serving(FakeServicer())) as server, sync.Client(server.value) as client:
        group = client.open_sessions("level", 2)
        for twin, original in ((client, client._client), (group[0], group[0]._session), (group, group._home[1])):
            assert {name for name in vars(original) if not name.startswith("_")} <= set(public(type(twin)))


@pytest.mark.parametrize(("original", "twin"), PAIRS, ids=lambda kind: kind.__module__)
def test_each_is_a_context_as_the_other_is(original: type, twin: type) -> None:
    """`with` does what `async with` does."""
    assert hasattr(original, "__aenter__") and hasattr(original, "__aexit__")
    assert hasattr(twin, "__enter__") and hasattr(twin, "__exit__")
