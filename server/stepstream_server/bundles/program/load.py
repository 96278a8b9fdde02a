"""Reads the graph of a program's bundle from disk. Imported by who needs it, since onnx takes long to import."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnx

from stepstream_server.bundles.fields import shorten, wrong
from stepstream_server.bundles.files import MANIFEST_FILE
from stepstream_server.bundles.program.manifest import DataEntry, GraphEntry
from stepstream_server.errors import BundleError
from stepstream_server.programs import read
from stepstream_server.programs.files import read_file
from stepstream_server.programs.screen import screen
from stepstream_server.spec import ModelSpec


def load_graph(path: Path, entry: GraphEntry, spec: ModelSpec) -> tuple[bytes, str]:
    """The graph in a bundle's folder, with all its values, and a digest of the files that it is made of.

    Raises BundleError naming file and field for files that are missing, out of the folder, too large or changed, and for a
    graph that cannot be served or is not what `spec` says.
    """
    folder = path.resolve().name
    parts: list[tuple[str, GraphEntry | DataEntry]] = [("program", entry)]
    parts += [(f"program.data[{index}]", each) for index, each in enumerate(entry.data)]
    for field, each in reversed(parts):
        data = _read_declared(path, field, each)  # that of the graph in the end; values are brought in later
    name = f"{folder}/{entry.file}"
    model = read.decode(data, name)
    found = read.external_files(model)
    if (declared := sorted(each.file for each in entry.data)) != found:
        expected = f"the files in which the graph keeps values, {shorten(found)}"
        raise wrong(f"{folder}/{MANIFEST_FILE}", "program.data", expected, shorten(declared))
    read.bring_in(model, path, name)
    return _checked(data, model, spec, name, changed=bool(entry.data)), _joined(parts)


def check_graph(data: bytes, spec: ModelSpec, file: str) -> bytes:
    """The file of a graph, self-contained. Raises BundleError naming `file` for what `load_graph` would refuse, and for values
    in other files."""
    if len(data) > read.MOST_BYTES:
        raise BundleError(f"{file}: expected at most {read.MOST_BYTES} bytes, as protobuf takes, got {len(data)}")
    model = read.decode(data, file)
    if others := read.external_files(model):
        raise BundleError(f"{file}: expected a graph that holds its values, got some in {shorten(others)}")
    return _checked(data, model, spec, file, changed=False)


def read_graph(file: Path) -> tuple[bytes, onnx.ModelProto]:
    """The graph in `file`, with the values of files beside it, and its functions written out. Its bytes are the very ones of the
    file where it has neither. Raises BundleError as `read.read` does."""
    data = read_file(file, file.name, read.MOST_BYTES)
    model = read.decode(data, file.name)
    as_it_came = not (model.functions or read.external_files(model))
    read.bring_in(model, file.parent, file.name)
    whole = read.inlined(model, file.name)
    return data if as_it_came else _bytes(whole, file.name), whole


def _bytes(model: onnx.ModelProto, file: str) -> bytes:
    try:
        data: bytes = model.SerializeToString()
    except Exception as error:  # whatever the protobuf in use raises beyond its limit
        raise BundleError(f"{file}: expected at most {read.MOST_BYTES} bytes with all values, got more: {error}") from None
    return data


def _checked(data: bytes, model: onnx.ModelProto, spec: ModelSpec, file: str, *, changed: bool) -> bytes:
    """The bytes of a graph once it has been screened: those given, where it is as it came."""
    whole = read.inlined(model, file)
    screen(whole, spec, file)
    return _bytes(whole, file) if changed or model.functions else data


def _read_declared(folder: Path, field: str, entry: GraphEntry | DataEntry) -> bytes:
    """The bytes of a file that lies in the folder, wherever links point, and has the checksum that the manifest says."""
    file, path = f"{folder.resolve().name}/{entry.file}", (folder / entry.file).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BundleError(f"{file}: expected a file in the bundle's folder, got a link out of it")
    data = read_file(path, file, read.MOST_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        manifest = f"{folder.resolve().name}/{MANIFEST_FILE}"
        raise wrong(manifest, f"{field}.sha256", f"{digest}, that of {entry.file}", entry.sha256)
    return data


def _joined(parts: Sequence[tuple[str, GraphEntry | DataEntry]]) -> str:
    """One digest for all files; that of the file where there is one."""
    digests = [entry.sha256 for _, entry in parts]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
