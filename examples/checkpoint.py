"""A training under way as a file: one that was ended goes on from there, to the weights that it would have had."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

Modules = Mapping[str, nn.Module]  # by name: the network, and what else training changes
Told = dict[str, str]  # what is told beside the numbers: how far it is, and by which recipe


def write(path: Path, modules: Modules, optimizer: Optimizer, told: Told) -> None:
    """Replaces the file at once: a training that is killed while it writes leaves the last one."""
    states = {part: module.state_dict() for part, module in modules.items()}
    tensors = {f"{part}.{name}": tensor.contiguous() for part, state in states.items() for name, tensor in state.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".new")
    save_file(tensors, whole, told)
    whole.replace(path)


def told_by(path: Path) -> Told:
    """Reads what is told beside the numbers; nothing where there is no file."""
    if not path.is_file():
        return {}
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def restore(path: Path, modules: Modules, optimizer: Optimizer | None = None) -> None:
    """Puts modules and optimizer where they stood."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    for part, module in modules.items():
        module.load_state_dict(_under(f"{part}.", tensors))
    if optimizer is not None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer.", tensors).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
