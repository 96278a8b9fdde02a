"""Takes torch modules and tensors for their numbers, and refuses those that compute with more: a bundle holds numbers only.

Torch is imported only when something here is called.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stepstream_server.bundles.fields import wrong

if TYPE_CHECKING:
    import torch


def check_plain(module: Any, types: Collection[type[torch.nn.Module]], field: str, expected: str) -> None:
    """Raises BundleError naming `field` unless `module` is of one of these very types and its weights are all that it applies.

    expected: the types in words. A subclass, a hook that runs before or after `forward`, a parametrised or pruned weight, or a
    `forward` of the module's own may compute anything. Hooks of the backward pass do not matter.
    """
    from torch.nn.modules.lazy import LazyModuleMixin
    from torch.nn.utils.parametrize import is_parametrized

    if isinstance(module, LazyModuleMixin):
        raise wrong("save", field, "a module that has weights; call it once on an input", type_name(module))
    if is_parametrized(module):  # before the type, which torch has changed
        name = next(iter(module.parametrizations))
        remedy = f"call torch.nn.utils.parametrize.remove_parametrizations(module, {name!r})"
        raise wrong("save", f"{field}.{name}", f"a plain weight; {remedy}", "a parametrised one")
    if type(module) not in types:
        raise wrong("save", field, expected, type_name(module))
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):  # torch has no public way to see them
        raise wrong("save", field, f"no hook around forward; {_remedy(hook)}", getattr(hook, "__qualname__", type_name(hook)))
    if "forward" in vars(module):
        raise wrong("save", field, f"the forward of {type_name(module)}; save_program takes any", "one of the module's own")


def values(tensor: torch.Tensor, field: str) -> NDArray[np.float32]:
    """A copy of a weight's numbers, of any float type, in its shape. Raises BundleError naming `field` for any other tensor."""
    import torch

    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):  # a subclass may multiply in a way of its own
        raise wrong("save", field, "a plain tensor or Parameter of its numbers", type_name(tensor))
    if tensor.is_meta:
        raise wrong("save", field, "numbers; move the module off the meta device and load its weights", "a tensor without any")
    if tensor.layout is not torch.strided or not tensor.is_floating_point():
        raise wrong("save", field, "a dense tensor of a float type", f"{tensor.layout}, {tensor.dtype}")
    return tensor.detach().to("cpu", torch.float32).numpy().copy()


def type_name(value: object) -> str:
    """A value's class with its module, since subclasses like to have the name of what they extend."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _remedy(hook: Any) -> str:
    """How what runs around a module's `forward` is taken away, and its effect on the weights made to last."""
    from torch.nn.utils.prune import BasePruningMethod
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    if isinstance(hook, BasePruningMethod):
        return f"call torch.nn.utils.prune.remove(module, {hook._tensor_name!r})"
    if isinstance(hook, WeightNorm):
        return f"call torch.nn.utils.remove_weight_norm(module, {hook.name!r})"
    if isinstance(hook, SpectralNorm):
        return f"call torch.nn.utils.remove_spectral_norm(module, {hook.name!r})"
    return "call remove() of the handle that its registration returned; save_program takes any hook"
