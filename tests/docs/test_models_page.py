"""The page about models: each of its ten goes from its code to a served one, and every argument of `save_program` is told."""

from __future__ import annotations

import inspect
import io
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from stepstream import Client
from stepstream_server import bundles
from stepstream_server.bundles import export
from stepstream_server.bundles.declare import Told
from stepstream_server.bundles.torch_step import Arrays, Step
from support.pages import ROOT, blocks
from support.server import serving

PAGE = ROOT / "docs" / "models.md"
KINDS = 10


def older_exporter(step: Step, arguments: Arrays) -> bytes:
    """Exports with torch's older exporter: in a tenth of the time, and good for what these ten do."""
    import torch

    names, file = step.names, io.BytesIO()
    axes = [0] * len(names.inputs) + step.axes(arguments[len(names.inputs) :])
    dynamic = {name: {axis: "sessions"} for name, axis in zip(names.read, axes, strict=True)}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            step.module,
            step.tensors(arguments),
            file,  # type: ignore[arg-type]  # which the older one takes
            dynamo=False,
            input_names=names.read,
            output_names=names.written,
            dynamic_axes=dynamic,
            opset_version=18,
        )
    return file.getvalue()


async def test_each_kind_goes_from_its_code_to_a_served_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_run: bool
) -> None:
    """Every block runs as a program does, and the server then steps what it has saved. In a short run the two seconds that torch
    takes to export are left out, which tests of `save_program` and of what it has made hold."""
    if not long_run:
        monkeypatch.setattr(export, "export", older_exporter)
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks(PAGE, "python"), 1):
        exec(compile(block, f"{PAGE.name}-{number}", "exec"), {"__name__": "__main__"})
    async with serving(tmp_path / "models") as bound, Client(bound.listen) as client:
        models = await client.models()
        assert len(models) == KINDS
        for model in models:
            async with client.open_session(model.name) as session:
                outputs = await session.step({each.name: np.zeros(each.shape, each.dtype) for each in model.inputs})
            assert all(np.isfinite(each).all() for each in outputs.values())


def test_every_argument_is_told() -> None:
    """Those of `save_program`, and what a manifest tells people; of `Input` and `Output` every field."""
    page = PAGE.read_text()
    section = page.split("\n## What `save_program` takes\n")[1].split("\n### ")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    told = [name for cell in cells for name in re.findall(r"`([^`]*)`", cell)]
    assert sorted(told) == sorted(
        inspect.signature(bundles.save_program).parameters.keys() - {"told"} | Told.__annotations__.keys()
    )
    for record in (bundles.Input, bundles.Output):
        assert f"`{record.__name__}({', '.join(inspect.signature(record).parameters)})`" in page
