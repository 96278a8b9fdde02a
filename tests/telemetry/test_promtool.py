"""Prometheus' own linter has the last word on what is exposed."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest
from prometheus_client import generate_latest

from stepstream_server.engine.ports import Ending, EngineStats, Launch, Origin, TurnReport
from stepstream_server.errors import Reason
from stepstream_server.telemetry import Metrics, new_registry


def test_promtool_accepts_the_exposition() -> None:
    """`promtool check metrics` finds no fault in names, units, help or format of a server that has served."""
    promtool = shutil.which("promtool")
    if promtool is None and os.environ.get("CI") != "true":
        pytest.skip("promtool is missing: install Debian's package `prometheus`")
    assert promtool is not None, "promtool is missing: install Debian's package `prometheus`"
    registry = new_registry()
    metrics = Metrics(registry)
    metrics.build_info("0.1.0", "onnx", "cpu")
    metrics.rpc_handled("stepstream.v1.InferenceService", "Step", "OK")
    metrics.watch("ecg", 1, lambda: EngineStats(1, 10, 1, 0, 1024, 5, 5))
    metrics.observer("ecg", 1).turn(
        TurnReport(
            launches=[Launch(1, 1, 0.0003)],
            steps=np.array([1]),
            queue_seconds=np.array([0.0001]),
            step_seconds=np.array([0.0005]),
            failures={Reason.WINDOW_FULL: 1},
            opened={Origin.OPENED: 1},
            closed={Ending.CLOSED: 1},
        )
    )
    checked = subprocess.run([promtool, "check", "metrics"], input=generate_latest(registry), capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
