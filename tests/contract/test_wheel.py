"""The wheel: what users get when they install StepStream."""

from __future__ import annotations

import email
import email.message
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"stepstream": "client", "stepstream_proto": "proto", "stepstream_server": "server"}


@pytest.fixture(scope="session")
def names(wheel: Path) -> set[str]:
    """The wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> email.message.Message:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_holds_the_three_packages_and_nothing_else(names: set[str]) -> None:
    """Tests, examples and benchmarks stay out of everybody's site-packages."""
    tops = {PurePosixPath(name).parts[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_holds_every_file_of_a_package(names: set[str], package: str) -> None:
    """Modules, type markers, the manifest's schema and the .proto files are all there."""
    folder = ROOT / PACKAGES[package]
    files = {path.relative_to(folder).as_posix() for path in (folder / package).rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    assert f"{package}/py.typed" in expected
    assert expected <= names


def test_base_install_is_the_client_and_the_contract(metadata: email.message.Message) -> None:
    """Without an extra, only what a client needs is installed."""
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert {line.split(">")[0].split("<")[0] for line in required} == {"googleapis-common-protos", "grpcio", "numpy", "protobuf"}


def test_server_extra_has_no_torch(metadata: email.message.Message) -> None:
    """A CPU server is installed without torch."""
    lines = metadata.get_all("Requires-Dist", [])
    assert any(line.startswith("onnxruntime") and "'server'" in line for line in lines)
    assert not any(line.startswith("torch") and "'torch'" not in line for line in lines)


def test_says_under_which_licence(metadata: email.message.Message, names: set[str]) -> None:
    """The licence is named and its text is shipped."""
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("/licenses/LICENSE") for name in names)
