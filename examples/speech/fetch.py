"""The synthesisers that `digits` is trained on and the two people that it is tested on; none of it is part of this project.

`python examples/speech/fetch.py` has `scripts/apt-packages` install espeak-ng and flite where they are not, and puts the
recordings into `examples/speech/.fetched`, which git ignores: 18 MB are downloaded. Whoever uses them keeps to their licences.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # its neighbours are `speech.…`, from wherever this is started
sys.path.insert(0, str(Path(__file__).parents[2]))  # and `benchmarks` is there

from speech.voices import PROGRAMS
from speech.voices import missing as missing_programs

from benchmarks import fetching
from benchmarks.fetching import Package

FOLDER = Path(__file__).parent / ".fetched"
COMMAND = "python examples/speech/fetch.py"
INSTALLER = Path(__file__).parents[2] / "scripts" / "apt-packages"

ALLISON = Package(
    "Debian", "asterisk-core-sounds-en-wav", "1.6.1-1", "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d"
)
DAWSON = Package("Debian", "saytime", "1.0-35+b1", "189e502f34ab7e2a9ececc45d781273760cfe11f3719f4176a9f6d472228856a")

PEOPLE = {"Allison Smith": ALLISON, "David C Dawson": DAWSON}
LICENCES = {
    ALLISON: "CC BY-SA 3.0, Allison Smith",
    DAWSON: "GPL, the sounds are David C Dawson's",
}

_PINNED = {  # package -> the folder inside of it -> its files with their sha256, in the order of voices.WORDS
    ALLISON: {
        "./usr/share/asterisk/sounds/en_US_f_Allison/digits": {
            "0.wav": "62debe1daf11756460c0de78d0e1ac7fe28b12fb51a30df3364ce74b90f05d31",
            "1.wav": "fb38aca5558d50f7bd4d7986adeea19b97eba894c574fc92acc3b33b480eb701",
            "2.wav": "6ef0a6b67a1741e950c491ef664bbfb424b63fab314d616d6f0e467cc0838dee",
            "3.wav": "4ec0371d15f721c61be36fe6ca54d0de29d9b9a48062634969556c50ff81faed",
            "4.wav": "f1c007fbd2eefa235ea10260b79527b89b88f6d2182008e86221572ad92f204f",
            "5.wav": "412b4b7729a8bae7b2b13ad8af9f6989abba8a4b9d5fc1c499b13a3b986653a5",
            "6.wav": "89c80e3c120f90112159d911568d2ca4a13f369a864ee26e882802385fab2474",
            "7.wav": "125c9acb8b5b6549079233c922782bfdf585d8c438906467921329669c6939fe",
            "8.wav": "854114f9f3bb94d36490b2951957a662e75212648a5e2330f1f3c56184d30488",
            "9.wav": "535d4117923ad8bac20185eb0746b421479ddec4f4acd2329285096a573d6e34",
            "oh.wav": "3674f1c9753367040f8e52c74068015564a66956c3fc32b0d3e2c700352552c6",
        }
    },
    DAWSON: {
        "./usr/share/saytime": {
            "0.au": "59013b21598958a78521c5810a4954a49b47750514917b1b07c6f19da0b79682",
            "1.au": "76e758aec245f7f4ad8d534f36273fc6caca8271bf7271069395268ea2e9fa5b",
            "2.au": "b977763f4373e56df63f51aa22de41e2914a7d5f880fd96754cb315e6c6cbd9f",
            "3.au": "565fcbebe46198970337a74f0cf56eef2812cf384023da4a55da14027d467d31",
            "4.au": "f02e668d0babb110b8ef0698a9959a7a2ccc20f3fd083ecc24639d7c78e5ed88",
            "5.au": "93faee853004636da0a630a35f699f67886cc8d0da61204c8b546aec7c8c81fe",
            "6.au": "cc8c2f304e9a7f35da56cfa015e3dc47512034047c5d0f8b781618f964722d6f",
            "7.au": "b5f09940acdcd2424dbf5d022ba8b0a9b8db86ea0c8eb02a0d91d3925f8dad17",
            "8.au": "aa9e693ba75661391c18b0a97c4ff979ce92fa583cd25012f4a0c5a932d3f402",
            "9.au": "5e16a63d629e8da74ac94594c8242731f87850b7dd7dbc59d82f25544a539207",
            "oh.au": "4df292e78f4a8645d8d92baa32afc9fc95062816074b322f7e872581bbee82bc",
        }
    },
}
PIECES = fetching.pinned(_PINNED)


def missing() -> str:
    """Names a recording that is not there as it was pinned, and the command that helps; empty if all are."""
    return fetching.missing(PIECES, FOLDER, COMMAND)


def files(person: str) -> list[Path]:
    """The recordings of one of PEOPLE, where they are put, in the order of `voices.WORDS`."""
    return [piece.path(FOLDER) for piece in PIECES if piece.package == PEOPLE[person]]


def install() -> None:
    """Installs the synthesisers where they are not; raises RuntimeError if that fails."""
    if missing_programs():
        subprocess.run([INSTALLER], stdin=subprocess.DEVNULL)
    if left := missing_programs():
        raise RuntimeError(left)


def main() -> None:
    """Fetches all that can be had and says under which licence it is; ends with code 1 if something cannot."""
    faults = fetching.fetch_each(PIECES, LICENCES, FOLDER)
    try:
        install()
        print(f"{' and '.join(PROGRAMS)} (Debian): tools, what they say is free")
    except RuntimeError as error:
        faults.append(str(error))
    sys.exit("\n".join(faults) or None)


if __name__ == "__main__":
    main()
