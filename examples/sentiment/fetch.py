"""Rated sentences, reviews, and the two lexicons to compare with, fetched from the packages that carry them.

`python examples/sentiment/fetch.py` puts them into `examples/sentiment/.fetched`, which git ignores, and does nothing where they
are there: 2.6 MB are downloaded. None of it is part of this project; whoever uses it keeps to its licences, see `LICENCES`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # `benchmarks` is there, from wherever this is started

from benchmarks import fetching
from benchmarks.fetching import Package

FOLDER = Path(__file__).parent / ".fetched"
COMMAND = "python examples/sentiment/fetch.py"

# The wheel lacks the rated sentences.
VADER = Package(
    "PyPI", "vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9", source=True
)
AFINN = Package("npm", "sentiment", "5.0.2", "89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f")

LICENCES = {
    VADER: "MIT, C. J. Hutto",
    AFINN: "MIT, Andrew Sliwinski; the reviews in it are UCI's Sentiment Labelled Sentences (Kotzias, 2015), CC BY 4.0 there",
}

_PINNED = {  # package -> the folder inside of it -> its files with their sha256
    VADER: {
        "vaderSentiment-3.3.2": {
            "additional_resources/hutto_ICWSM_2014.tar.gz": "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
            "vaderSentiment/vaderSentiment.py": "25cd814d23000b41c0e242d99960832c6620b3f1b844469173404500ce63206b",
            "vaderSentiment/vader_lexicon.txt": "1ec9c6e9ee19aade328f8beb393a6afa71a5bb3acf7d3cc22d4ef568df374bf5",
            "vaderSentiment/emoji_utf8_lexicon.txt": "b8d54223ae1ce22a3e12c1f745316b71678c328eb5f5d3063a842f37cfbe2823",
        },
    },
    AFINN: {
        "package": {
            "test/fixtures/imdb.json": "44a7b9082ed732ee2de3c858ea5ee2e99aca34f239a1c4359d3a300bf099bdb5",
            "test/fixtures/yelp.json": "9f3f47983f21eeb819380767b74bfa648eca208f156241111454b3e122773ff7",
            "test/fixtures/amazon.json": "bc5eb0cac49fc45987301f1dc2d02cf5ca356ba6c882be179dce77d74e666ed9",
            "languages/en/labels.json": "c632f16659901337310443c0a9981bef230704ef46ec70fbd08be5b9890341ea",
            "languages/en/negators.json": "5d38893d6e78241e9a6efd9deb0cf6d148c98f2479af9b18b161243c28c5ea50",
            "build/emoji.json": "2f97018cde030c445d8a10c255e3e1f0f59c27bc100492f8e149f4b38c76b101",
        },
    },
}
PIECES = fetching.pinned(_PINNED)


def missing() -> str:
    """Names a file that is not there as it was pinned, and the command that helps; empty if all are."""
    return fetching.missing(PIECES, FOLDER, COMMAND)


def main() -> None:
    """Fetches both packages' files and says under which licences they are; ends with code 1 if they cannot be had."""
    sys.exit("\n".join(fetching.fetch_each(PIECES, LICENCES, FOLDER)) or None)


if __name__ == "__main__":
    main()
