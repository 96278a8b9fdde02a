"""Checks of how text becomes the tokens of an input. Pure; no files."""

from __future__ import annotations

from stepstream_server.bundles.fields import shorten, wrong
from stepstream_server.bundles.heads import check_distinct
from stepstream_server.spec import ModelSpec, TensorSpec, TextSpec

BYTES = 256  # values of one


def check_text(spec: ModelSpec, file: str) -> None:
    """Raises BundleError naming `file` and the field where the text of an input does not fit the input."""
    for index, tensor in enumerate(spec.inputs):
        if tensor.text is not None:
            _check_tokens(tensor, tensor.text, f"inputs[{index}]", file)


def _check_tokens(tensor: TensorSpec, text: TextSpec, field: str, file: str) -> None:
    if tensor.dtype not in ("int32", "int64") or tensor.shape:
        expected = "nothing, since tokens are of dtype int32 or int64 and of shape []"
        raise wrong(file, f"{field}.text", expected, f"text for {tensor.dtype} {list(tensor.shape)}")
    if text.space and text.codec != "pieces":
        raise wrong(file, f"{field}.text.space", f"nothing, since text is {text.codec}", shorten(text.space))
    if text.codec == "bytes":
        _check_bytes(tensor, text, field, file)
    else:
        _check_vocabulary(tensor, text, field, file)


def _check_bytes(tensor: TensorSpec, text: TextSpec, field: str, file: str) -> None:
    for name in ("vocabulary", "unknown"):
        if getattr(text, name):
            raise wrong(file, f"{field}.text.{name}", "nothing, since text is bytes", shorten(getattr(text, name)))
    if tensor.limit != BYTES:
        raise wrong(file, f"{field}.limit", f"{BYTES}, one per byte, since text is bytes", f"{tensor.limit}")


def _check_vocabulary(tensor: TensorSpec, text: TextSpec, field: str, file: str) -> None:
    vocabulary, place = text.vocabulary, f"{field}.text.vocabulary"
    if len(vocabulary) != tensor.limit:
        raise wrong(file, place, f"{tensor.limit} {text.codec}, one per token", f"{len(vocabulary)}")
    for position, entry in enumerate(vocabulary):
        if entry.split() != [entry]:
            raise wrong(file, f"{place}[{position}]", "one or more characters, none of them white space", shorten(entry))
    check_distinct(vocabulary, place, file)
    if text.unknown and text.unknown not in vocabulary:
        raise wrong(file, f"{field}.text.unknown", "an entry of the vocabulary", shorten(text.unknown))
    if text.codec == "pieces" and (len(text.space) != 1 or text.space.isspace()):
        raise wrong(file, f"{field}.text.space", "one character that is no white space, such as \u2581", shorten(text.space))
