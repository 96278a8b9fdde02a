"""Models for whole servers."""

from pathlib import Path

import pytest

from stepstream_server import bundles


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one small LSTM, `small`: two inputs, one output."""
    folder = tmp_path_factory.mktemp("models")
    bundles.init_model(folder / "small", cell="lstm", inputs=2, hidden=16, layers=1, outputs=1, seed=0)
    return folder
