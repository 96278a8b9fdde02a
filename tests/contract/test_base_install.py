"""What `pip install stepstream` alone can do: be a client, without any of the server's packages."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepstream_server import bundles

ROOT = Path(__file__).parents[2]
EXCHANGE = Path(__file__).with_name("base_install_exchange.py")
SERVER_SIDE = (
    "torch",
    "onnx",
    "onnxruntime",
    "prometheus_client",
    "pydantic",
    "structlog",
    "typer",
    "safetensors",
    "grpc_health",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # installing takes half a minute


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel and what it asks for, nothing else."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder, with_pip=False)
    interpreter = folder / "bin" / "python"
    install = ["install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(interpreter), *install], check=True)
    return interpreter


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where a server process of the full environment serves the model `random`, until the test is over."""
    bundles.init_model(tmp_path / "random", cell="lstm", inputs=3, hidden=8, layers=1, outputs=2, seed=0)
    command = [sys.executable, "-m", "stepstream_server", "serve", "--models", str(tmp_path), "--listen", "127.0.0.1:0"]
    with subprocess.Popen([*command, "--metrics", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["listening"]
        server.terminate()


def run(interpreter: Path | str, *arguments: str) -> str:
    """The standard output of a Python process whose warnings are errors and that sees only its own environment."""
    isolated = [str(interpreter), "-I", "-W", "error", *arguments]
    done = subprocess.run(isolated, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_the_client_can_be_imported(base: Path) -> None:
    """`import stepstream` works where none of the server's packages can be found."""
    code = f"import importlib.util as u, stepstream; print([n for n in {SERVER_SIDE} if u.find_spec(n)])"
    assert run(base, "-c", code).strip() == "[]"


def test_version_is_that_of_the_project(base: Path) -> None:
    """The installed distribution says the version that is being tested."""
    code = "import importlib.metadata as m; print(m.version('stepstream'))"
    assert run(base, "-c", code).strip() == importlib.metadata.version("stepstream")


def test_streams_to_a_server(base: Path, address: str) -> None:
    """Steps, a chunk, a stream and a group give the same bits from a base install as from a full one."""
    printed = run(base, str(EXCHANGE), address, "random")
    assert len(printed.splitlines()) == 20 + 1 + 20 + 1
    assert printed == run(sys.executable, str(EXCHANGE), address, "random")
