"""The stories of `memory`: "I grew up in Pakistan", filler of any length, "I speak fluent Urdu".

The filler is drawn without regard to the country, so nothing in it tells the answer. It does name other countries, and at times
the right one, in other roles ("My father once flew to Spain."): who keeps just any country that was named answers wrongly.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from itertools import product

LANGUAGES = {
    "China": "Mandarin", "Cambodia": "Khmer", "Egypt": "Arabic", "Ethiopia": "Amharic", "Finland": "Finnish",
    "France": "French", "Greece": "Greek", "Hungary": "Hungarian", "Iceland": "Icelandic", "Iran": "Persian",
    "Italy": "Italian", "Japan": "Japanese", "Kenya": "Swahili", "Korea": "Korean", "Nepal": "Nepali",
    "Pakistan": "Urdu", "Poland": "Polish", "Spain": "Spanish", "Turkey": "Turkish", "Vietnam": "Vietnamese",
}  # fmt: skip
BEGINNINGS = ("I grew up in", "I was raised in")  # equally long
QUERY = ("I", "speak", "fluent")
BRIDGES = {1: (("So",), ("Now",)), 2: (("And", "so"), ("Of", "course"))}  # before the query, where no sentence fits
SHORTEST = 1 + len(QUERY)  # the least distance: the full stop and the query
HELD_OUT = 5  # every fifth form of each filler sentence is kept from training

# Each slot is filled by one of its words, separated by "/"; `kin` alone takes two words.
SLOTS = {
    "kin": "My mother/My father/My brother/My sister/Our teacher",
    "country": "/".join(LANGUAGES),
    "food": "rice/bread/soup/fish/cheese",
    "day": "Sunday/Monday/morning/evening",
    "season": "spring/summer/winter",
    "number": "two/three/five/seven",
    "place": "river/school/market/station",
    "job": "nurse/baker/farmer",
    "feel": "cold/warm/quiet/lovely",
    "look": "old/big/small/green",
    "animal": "dog/cat/horse",
    "do": "swim/read/cook/dance",
    "did": "laughed/sang/waited/danced/slept",
    "thing": "chess/cards/music",
}
SENTENCES = (
    "We {did} .",
    "Everybody {did} .",
    "{kin} {did} .",
    "It was {feel} .",
    "{kin} cooked {food} every {day} .",
    "{kin} was a {job} .",
    "{kin} liked {thing} and {food} .",
    "{kin} sold {food} at the {place} .",
    "{kin} taught me to {do} .",
    "{kin} had {number} children and a {animal} .",
    "{kin} lived near the {place} .",
    "{kin} never liked the {season} .",
    "{kin} wanted to be a {job} .",
    "{kin} played {thing} with us when it was {feel} .",
    "{kin} once flew to {country} .",
    "{kin} has a friend in {country} .",
    "{kin} wrote a letter to {country} every {season} .",
    "{kin} was born in {country} .",
    "We watched a film about {country} .",
    "A {job} from {country} lived near the {place} .",
    "In {season} we went to {country} by train .",
    "The {season} was {feel} and {look} .",
    "The {place} was {feel} every {day} .",
    "The {animal} slept under the {look} table .",
    "The {animal} was {look} but not {feel} .",
    "One {day} the {animal} ran to the {place} .",
    "There was a {look} {place} behind the house .",
    "The house had {number} rooms and a {look} garden .",
    "Every {day} we walked to the {place} .",
    "In {season} we ate {food} and {food} .",
    "We had little {food} but much {thing} .",
    "I still remember the {feel} {season} by the {place} .",
    "I had a {look} {animal} and {number} friends .",
)

COUNTRIES = tuple(LANGUAGES)
_TOKEN = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")


def words_of(text: str) -> list[str]:
    """The tokens of a text: words, each with its apostrophes and hyphens, and single punctuation marks."""
    return _TOKEN.findall(text)


def text_of(words: list[str] | tuple[str, ...]) -> str:
    """Tokens as a text: a space before each but the first and punctuation marks."""
    return "".join(word if not at or not re.match(r"\w", word) else f" {word}" for at, word in enumerate(words))


def forms(sentence: str) -> list[tuple[str, ...]]:
    """All the ways to fill a sentence's slots, as tokens and in a random order that is always the same."""
    slots = re.findall(r"{(\w+)}", sentence)
    blank = re.sub(r"{\w+}", "{}", sentence)
    filled = [tuple(blank.format(*values).split()) for values in product(*(SLOTS[slot].split("/") for slot in slots))]
    random.Random(sentence).shuffle(filled)
    return filled


def _vocabulary() -> tuple[str, ...]:
    frame = {word for beginning in BEGINNINGS for word in beginning.split()} | {*QUERY, "."}
    bridges = {word for choices in BRIDGES.values() for words in choices for word in words}
    filler = {word for sentence in SENTENCES for form in forms(sentence) for word in form}
    return tuple(sorted(frame | bridges | filler | set(LANGUAGES) | set(LANGUAGES.values())))


VOCABULARY = _vocabulary()  # a word's place is its token
TOKENS = {word: token for token, word in enumerate(VOCABULARY)}


@dataclass(frozen=True, slots=True)
class Story:
    """A text up to its blank, and what belongs there."""

    words: tuple[str, ...]  # "I grew up in Pakistan . ... I speak fluent"
    answer: str  # "Urdu"
    distance: int  # words and full stops between the country and the blank

    @property
    def tokens(self) -> list[int]:
        return [TOKENS[word] for word in self.words]


class Storyteller:
    """Tells stories without end: those to train on, or held-out ones. The same seed gives the same stories."""

    def __init__(self, seed: int, *, held_out: bool) -> None:
        self._random = random.Random(seed)
        by_sentence = [forms(sentence) for sentence in SENTENCES]
        kept = [tuple(form for at, form in enumerate(each) if (at % HELD_OUT == 0) is held_out) for each in by_sentence]
        longest = max(len(each[0]) for each in kept)
        # Index n: the sentences of at most n words.
        self._fitting = [[each for each in kept if len(each[0]) <= room] for room in range(longest + 1)]

    def story(self, distance: int, country: str | None = None) -> Story:
        """A story of exactly this distance, at least `SHORTEST`; of this country, or of any."""
        if distance < SHORTEST:
            raise ValueError(f"distance: expected {SHORTEST} or more, got {distance}")
        country = country or self._random.choice(COUNTRIES)
        beginning = self._random.choice(BEGINNINGS).split()
        words = (*beginning, country, ".", *self._filler(distance - SHORTEST), *QUERY)
        return Story(words, LANGUAGES[country], distance)

    def _filler(self, room: int) -> list[str]:
        words: list[str] = []
        while (left := room - len(words)) > max(BRIDGES):
            fitting = self._fitting[min(left, len(self._fitting) - 1)]
            words += self._random.choice(self._random.choice(fitting))
        return words + list(self._random.choice(BRIDGES[left])) if left else words
