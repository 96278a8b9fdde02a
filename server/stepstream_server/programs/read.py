"""Reads a file in ONNX into one message that holds everything, from its own folder alone."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner

from stepstream_server.errors import BundleError
from stepstream_server.programs import walk
from stepstream_server.programs.files import read_file

_LONGEST_NAME = 255  # bytes: as file systems take
MOST_BYTES = (1 << 31) - 1  # of a file, and with what lies beside it: protobuf takes no larger message


def read(path: Path) -> onnx.ModelProto:
    """The model in the file `path`: values that it keeps in files beside it are brought in, functions of its own are inlined.

    Raises BundleError naming the file for what cannot be read, is no model, or points out of its folder.
    """
    model = decode(read_file(path, path.name, MOST_BYTES), path.name)
    bring_in(model, path.parent, path.name)
    return inlined(model, path.name)


def decode(data: bytes, file: str) -> onnx.ModelProto:
    """The bytes of a file in ONNX as a message. Raises BundleError naming `file`."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # whatever the parser in use raises
        raise BundleError(f"{file}: expected a model in ONNX, got bytes that are none: {error}") from None
    if not model.graph.node:
        raise BundleError(f"{file}: expected a model in ONNX with a graph, got none")
    return model


def external_files(model: onnx.ModelProto) -> list[str]:
    """Names of the files beside it in which a model keeps values, in the order of names."""
    return sorted({_entry(tensor, "location") for tensor in walk.tensors(model) if _is_external(tensor)})


def bring_in(model: onnx.ModelProto, folder: Path, file: str) -> None:
    """Puts the values that the model keeps in other files of its folder into it."""
    held: dict[str, bytes] = {}
    total = 0
    for tensor in walk.tensors(model):
        if _is_external(tensor):
            location = _entry(tensor, "location")
            if location not in held:
                held[location] = read_file(_inside(folder, location, file), location, MOST_BYTES)
            tensor.raw_data = _part(held[location], tensor, file)
            total += len(tensor.raw_data)
            if total > MOST_BYTES:
                raise BundleError(f"{file}: expected values of at most {MOST_BYTES} bytes in all, got more")
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT


def inlined(model: onnx.ModelProto, file: str) -> onnx.ModelProto:
    """The model with its own functions written out. Raises BundleError naming `file` where that cannot be done."""
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # of its C++ code, of no type of its own
        raise BundleError(f"{file}: expected functions that can be written out, got: {error}") from None


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _entry(tensor: onnx.TensorProto, key: str) -> str:
    """An entry of what a tensor says of where its values are; nothing if it does not say it."""
    return next((entry.value for entry in tensor.external_data if entry.key == key), "")


def _inside(folder: Path, location: str, file: str) -> Path:
    """The file of a folder that is meant. Raises BundleError for any other place: a path may name what nobody meant to show."""
    path = folder / location
    plain = location not in ("", "..") and "\0" not in location and len(location.encode()) <= _LONGEST_NAME
    if not plain or Path(location).name != location or path.is_symlink():
        raise BundleError(f"{file}: expected values in a file of its own folder, got {location[:100]!r}")
    return path


def _part(data: bytes, tensor: onnx.TensorProto, file: str) -> bytes:
    """The bytes of a tensor in a file that may hold many."""
    try:
        offset = int(_entry(tensor, "offset") or 0)
        length = int(_entry(tensor, "length") or len(data) - offset)
    except ValueError:
        offset = length = -1
    if not (0 <= offset <= offset + length <= len(data)):
        where = f"{_entry(tensor, 'length')[:30]} bytes from {_entry(tensor, 'offset')[:30]} on"
        raise BundleError(f"{file}: tensor {tensor.name[:100]!r}: expected bytes within the {len(data)} of its file, got {where}")
    return data[offset : offset + length]
