"""Operators that cannot be served, and why."""

from __future__ import annotations

from typing import Final

DOMAINS: Final = ("", "ai.onnx", "com.microsoft")  # whose operators onnxruntime brings along
LEAST_OPSET: Final = 13  # from here on Split, Squeeze and the reductions take their axes as inputs

_RANDOM = "it draws at random, so that a step could not be repeated"
_SHAPES = "its output has a shape that depends on values, so that steps of several sessions cannot be computed together"
_LOOPS = "it may run for ever"
_VALUES = "its values are no numbers of a fixed size"

REFUSED: Final = {
    **dict.fromkeys(
        ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"), _RANDOM
    ),
    **dict.fromkeys(("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"), _LOOPS),
    **dict.fromkeys(("Compress", "NonMaxSuppression", "NonZero", "Unique"), _SHAPES),
    **dict.fromkeys(("Loop", "Scan"), _LOOPS),
    **dict.fromkeys(
        (
            *("SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength"),
            *("SequenceMap", "SplitToSequence", "ConcatFromSequence"),
            *("Optional", "OptionalGetElement", "OptionalHasElement"),
            *("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer", "ImageDecoder"),
        ),
        _VALUES,
    ),
}

# Inputs, by their places, that say how large an output is: where a caller says it, he could claim any memory.
SIZED: Final[dict[str, tuple[int, ...]]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Resize": (2, 3),
    "Tile": (1,),
}
