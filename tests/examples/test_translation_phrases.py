"""The phrases of the translation example: four languages that say the same, items kept from training, and pieces."""

from __future__ import annotations

from datetime import date
from itertools import chain, islice
from random import Random

import pytest

pytest.importorskip("babel", reason="phrases need the examples extra")
pytest.importorskip("num2words", reason="phrases need the examples extra")

from translation.evaluate import COUNT_LISTED, KINDS, held_out, listed
from translation.phrases import (
    DATES,
    DATES_WITHOUT_YEAR,
    LANGUAGES,
    Phrase,
    cardinal,
    date_without_year,
    draw,
    full_date,
    is_held_out,
    number,
    phrases,
    time_in_figures,
    time_in_words,
)
from translation.pieces import END, SIGN, collect, encode, encode_translation, join, parts

MARCH = date(2014, 3, 3)


def written(phrase: Phrase) -> tuple[str, ...]:
    """The wording that a translation into each language has."""
    return tuple(phrase.wordings[language][0] for language in LANGUAGES)


def some(count: int, *, held_out: bool = False) -> list[Phrase]:
    """Phrases as they are drawn for training, or held out."""
    return list(islice(phrases(Random(5), held_out=held_out), count))


@pytest.mark.parametrize(
    ("phrase", "expected"),
    [
        (number(97), ("ninety-seven", "siebenundneunzig", "quatre-vingt-dix-sept", "noventa y siete")),
        (number(21_001), ("twenty-one thousand and one", "einundzwanzigtausendeins", "vingt et un mille un", "veintiún mil uno")),
        (date_without_year(MARCH, DATES_WITHOUT_YEAR[0]), ("3 March", "3. März", "3 mars", "3 de marzo")),
        (
            date_without_year(MARCH, DATES_WITHOUT_YEAR[1]),
            ("on the third of March", "am dritten März", "le trois mars", "el tres de marzo"),
        ),
        (full_date(date(2014, 3, 1), DATES[0]), ("1 March 2014", "1. März 2014", "1er mars 2014", "1 de marzo de 2014")),
        (
            full_date(MARCH, DATES[3]),
            (
                "on Monday the third of March twenty fourteen",
                "am Montag, dem dritten März zweitausendvierzehn",
                "le lundi trois mars deux mille quatorze",
                "el lunes tres de marzo de dos mil catorce",
            ),
        ),
        (time_in_figures(20, 5), ("8:05 pm", "20.05 Uhr", "20 h 05", "20:05 h")),
        (time_in_words(8, 30), ("half past eight", "halb neun", "huit heures et demie", "las ocho y media")),
        (time_in_words(13, 0), ("one o'clock", "ein Uhr", "une heure", "la una en punto")),
        (time_in_words(12, 40), ("twenty to one", "zwanzig vor eins", "une heure moins vingt", "la una menos veinte")),
    ],
)
def test_a_phrase_says_the_same_in_every_language(phrase: Phrase, expected: tuple[str, ...]) -> None:
    """In words that are natural there."""
    assert written(phrase) == expected


@pytest.mark.parametrize(("value", "expected"), [(31_000, "treinta y un mil"), (101_001, "ciento un mil uno")])
def test_spanish_one_is_shortened_before_a_thousand(value: int, expected: str) -> None:
    """The word that num2words leaves long is put right."""
    assert cardinal(value, "es") == expected


def test_a_source_is_translated_into_every_language_that_it_is_not_in() -> None:
    """Figures into all four."""
    pairs = list(number(7).pairs())
    assert ("sieben", "en", "seven") in pairs
    assert [language for source, language, _ in pairs if source == "7"] == list(LANGUAGES)
    assert not [pair for pair in pairs if pair[:2] == ("sieben", "de")]
    assert len(pairs) == 4 * 3 + 4


def test_a_source_has_one_translation() -> None:
    """Else nobody could know which is meant."""
    translations: dict[tuple[str, str], set[str]] = {}
    every_time = [kind(hour, minute) for kind in (time_in_figures, time_in_words) for hour in range(24) for minute in range(60)]
    for source, language, translation in chain.from_iterable(
        phrase.pairs() for phrase in (*some(500), *every_time, *map(number, range(100)))
    ):
        translations.setdefault((source, language), set()).add(translation)
    assert {len(each) for each in translations.values()} == {1}


def test_no_held_out_item_is_trained_on() -> None:
    """The item decides, so that it is unseen in every language and style; about a tenth is held out."""
    assert not any(is_held_out(phrase.item) for phrase in some(300))
    assert all(is_held_out(phrase.item) for phrase in some(30, held_out=True))
    drawn = [draw(Random(at), "numbers") for at in range(200)]
    assert 0.05 < sum(is_held_out(str(value)) for value in range(10_000)) / 10_000 < 0.15
    assert {phrase.held_out for phrase in drawn} == {False, True}
    styles = [full_date(MARCH, forms) for forms in DATES]
    assert {phrase.item for phrase in styles} == {"2014-03-03"}


def test_the_list_is_what_evaluation_begins_with() -> None:
    """Of each kind the first ones, all of items that are held out."""
    kept = {kind: [each for each in listed() if each.kind == kind] for kind in KINDS}
    assert [len(each) for each in kept.values()] == [COUNT_LISTED] * len(KINDS)
    assert held_out(10) == [each for trials in kept.values() for each in trials[:10]]


def test_every_text_is_cut_into_pieces_and_written_back() -> None:
    """A source in lower case; a translation as it is, without a sign in front."""
    pairs = [pair for phrase in some(30) for pair in phrase.pairs()]
    vocabulary = collect([source for source, _, _ in pairs], [translation for _, _, translation in pairs], LANGUAGES)
    tokens = {piece: token for token, piece in enumerate(vocabulary)}
    for source, language, translation in pairs:
        assert join(vocabulary[token] for token in encode(source, language, tokens)) == f" {source.lower()} <{language}>"
        assert join(vocabulary[token] for token in encode_translation(translation, tokens)) == translation + END
    with pytest.raises(KeyError, match="expected a text of the model's pieces, got '▁ж'"):
        encode("Ж", "fr", tokens)


def test_compounds_are_cut_where_their_parts_meet() -> None:
    """German numbers at each part; figures digit by digit; hyphens stay with what follows."""
    assert parts("siebenundneunzigtausendeinhunderteins") == ["sieben", "und", "neunzig", "tausend", "ein", "hundert", "eins"]
    assert parts("einundzwanzigsten") == ["ein", "und", "zwanzigsten"]
    assert parts("quatre-vingt-dix-sept") == ["quatre", "-vingt", "-dix", "-sept"]
    assert parts("2014-03-03") == [*"2014-03-03"]
    assert SIGN + "<fr>" in collect([], [], LANGUAGES)
