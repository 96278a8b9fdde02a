"""Numbers, dates and times as English, German, French and Spanish write them, by Babel and num2words.

A phrase says one item, such as a date, in every language. The first of a language's wordings is the one that a translation into
it writes; all of them are read. Some are in figures, which belong to no language. A tenth of all items is held out: they are
trained on in no language, style or direction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from random import Random
from typing import Literal

try:
    from babel.dates import get_day_names, get_month_names
    from num2words import num2words
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing}; phrases are made by Babel and num2words: pip install '.[dev]'") from None

Kind = Literal["numbers", "dates", "times"]
Forms = Mapping[str, str]  # language -> wordings, "|" between them
LANGUAGES = ("en", "de", "fr", "es")
FIGURES = ""  # the language of figures
SHARES: Mapping[Kind, float] = {"numbers": 0.45, "dates": 0.4, "times": 0.15}  # of what is trained on
HELD_OUT = 10  # every tenth item
DIGITS = tuple(digits for digits in range(1, 7) for _ in range(digits))  # of a number, to draw from
FIRST_DAY, END = date(1900, 1, 1), date(2100, 1, 1)
LEAP = 2012  # has all days that a date without a year may be

NUMBER: Forms = {**dict.fromkeys(LANGUAGES, "{words}"), FIGURES: "{figures}"}
DATES_WITHOUT_YEAR: tuple[Forms, ...] = (
    {"en": "{d} {month}|{month} {d}", "de": "{d}. {month}", "fr": "{d} {month}", "es": "{d} de {month}"},
    {
        "en": "on the {day} of {month}|the {day} of {month}",
        "de": "am {day}n {month}|der {day} {month}",
        "fr": "le {day} {month}|{day} {month}",
        "es": "el {day} de {month}|{day} de {month}",
    },
)
DATES: tuple[Forms, ...] = (
    {
        "en": "{d} {month} {y}|{month} {d}, {y}",
        "de": "{d}. {month} {y}",
        "fr": "{d} {month} {y}",
        "es": "{d} de {month} de {y}",
        FIGURES: "{iso}",
    },
    {
        "en": "{weekday} {d} {month} {y}|{weekday}, {month} {d}, {y}",
        "de": "{weekday}, {d}. {month} {y}",
        "fr": "{weekday} {d} {month} {y}",
        "es": "{weekday}, {d} de {month} de {y}",
    },
    {
        "en": "on the {day} of {month} {year}|the {day} of {month} {year}",
        "de": "am {day}n {month} {year}|der {day} {month} {year}",
        "fr": "le {day} {month} {year}|{day} {month} {year}",
        "es": "el {day} de {month} de {year}|{day} de {month} de {year}",
    },
    {
        "en": "on {weekday} the {day} of {month} {year}",
        "de": "am {weekday}, dem {day}n {month} {year}|{weekday}, der {day} {month} {year}",
        "fr": "le {weekday} {day} {month} {year}|{weekday} {day} {month} {year}",
        "es": "el {weekday} {day} de {month} de {year}|{weekday} {day} de {month} de {year}",
    },
)
TIME: Forms = {
    "en": "{h12}:{mm} {half}",
    "de": "{h}.{mm} Uhr|{hh}:{mm} Uhr",
    "fr": "{h} h {mm}|{h}h{mm}",
    "es": "{h}:{mm} h",
    FIGURES: "{hh}:{mm}",
}
CLOCK: Mapping[int, Forms] = {  # by the minute: those that have a name; {hour} is the one before, {next} the one behind
    0: {"en": "{hour} o'clock", "de": "{full} Uhr", "fr": "{hour}", "es": "{hour} en punto"},
    15: {"en": "quarter past {hour}", "de": "Viertel nach {hour}", "fr": "{hour} et quart", "es": "{hour} y cuarto"},
    30: {"en": "half past {hour}", "de": "halb {next}", "fr": "{hour} et demie", "es": "{hour} y media"},
    45: {"en": "quarter to {next}", "de": "Viertel vor {next}", "fr": "{next} moins le quart", "es": "{next} menos cuarto"},
}
PAST: Forms = {"en": "{past} past {hour}", "de": "{past} nach {hour}", "fr": "{hour} {past}", "es": "{hour} y {past}"}
TO: Forms = {"en": "{to} to {next}", "de": "{to} vor {next}", "fr": "{next} moins {to}", "es": "{next} menos {to}"}


@dataclass(frozen=True, slots=True)
class Phrase:
    """One item, and its wordings by language."""

    kind: Kind
    item: str
    wordings: Mapping[str, tuple[str, ...]]

    @property
    def held_out(self) -> bool:
        """Tells whether its item is kept from training."""
        return is_held_out(self.item)

    def pairs(self) -> Iterator[tuple[str, str, str]]:
        """Source, language and translation: each source with every language that it is not in."""
        for spoken, sources in self.wordings.items():
            for language in LANGUAGES:
                if language != spoken:
                    yield from ((source, language, self.wordings[language][0]) for source in sources)


def is_held_out(item: str) -> bool:
    """Tells whether an item is kept from training, by its hash, which is the same everywhere."""
    return int.from_bytes(hashlib.sha256(item.encode()).digest()[:4]) % HELD_OUT == 0


def number(value: int) -> Phrase:
    """A whole number, in words or figures."""
    parts = {language: {"words": cardinal(value, language)} for language in LANGUAGES}
    return _phrase("numbers", str(value), NUMBER, {**parts, FIGURES: {"figures": str(value)}})


def date_without_year(day: date, forms: Forms) -> Phrase:
    """A day of any year."""
    return _phrase("dates", f"{day:%m-%d}", forms, _date_parts(day))


def full_date(day: date, forms: Forms) -> Phrase:
    """A day of one year."""
    return _phrase("dates", day.isoformat(), forms, _date_parts(day))


def time_in_figures(hour: int, minute: int) -> Phrase:
    """A time of day, of 24 hours."""
    half = "am" if hour < 12 else "pm"
    parts = {"h": str(hour), "hh": f"{hour:02}", "mm": f"{minute:02}", "h12": _on_clock(hour), "half": half}
    return _phrase("times", f"{hour:02}:{minute:02}", TIME, dict.fromkeys(TIME, parts))


def time_in_words(hour: int, minute: int) -> Phrase:
    """A time as a clock with hands shows it: half past eight, in the morning or in the evening."""
    parts = {
        language: {
            "hour": _hour(hour, language),
            "next": _hour(hour + 1, language),
            "full": "ein" if hour % 12 == 1 else _hour(hour, language),
            "past": cardinal(minute, language),
            "to": cardinal(60 - minute, language),
        }
        for language in LANGUAGES
    }
    return _phrase("times", f"{hour % 12:02}:{minute:02}", CLOCK.get(minute, PAST if minute < 30 else TO), parts)


@cache
def cardinal(value: int, language: str) -> str:
    """A number in words, without commas; in Spanish "veintiún mil", where num2words has "veintiuno mil"."""
    words = str(num2words(value, lang=language)).replace(",", "")
    return words.replace("veintiuno mil", "veintiún mil").replace("uno mil", "un mil")


def draw(random: Random, kind: Kind) -> Phrase:
    """A phrase of a kind. Numbers of many digits are likelier than those of few, styles of dates and times equally likely."""
    if kind == "numbers":
        return number(random.randrange(10 ** random.choice(DIGITS)))
    if kind == "times":
        return random.choice((time_in_figures, time_in_words))(random.randrange(24), random.randrange(60))
    forms = random.choice((*DATES_WITHOUT_YEAR, *DATES))
    if forms in DATES_WITHOUT_YEAR:
        return date_without_year(date(LEAP, 1, 1) + timedelta(random.randrange(366)), forms)
    return full_date(FIRST_DAY + timedelta(random.randrange((END - FIRST_DAY).days)), forms)


def phrases(random: Random, *, held_out: bool) -> Iterator[Phrase]:
    """Phrases without end, of each kind as often as its share says."""
    while True:
        (kind,) = random.choices(list[Kind](SHARES), list(SHARES.values()))
        if (phrase := draw(random, kind)).held_out is held_out:
            yield phrase


def vocabulary_texts() -> tuple[list[str], list[str]]:
    """Sources and translations with every word, or part of a word, that there is."""
    phrases = [number(value) for value in (*range(1000), *range(1000, 1_000_000, 1000))]
    phrases += [full_date(date(LEAP, 1, 1) + timedelta(day), forms) for day in range(366) for forms in DATES]
    phrases += [date_without_year(date(LEAP, 1, 1) + timedelta(day), forms) for day in range(366) for forms in DATES_WITHOUT_YEAR]
    phrases += [full_date(date(year, 1, 1), forms) for year in range(FIRST_DAY.year, END.year) for forms in DATES]
    phrases += [time(hour, minute) for time in (time_in_figures, time_in_words) for hour in range(24) for minute in range(60)]
    pairs = [pair for phrase in phrases for pair in phrase.pairs()]
    return [source for source, _, _ in pairs], [translation for _, _, translation in pairs]


def _phrase(kind: Kind, item: str, forms: Forms, parts: Mapping[str, Mapping[str, str]]) -> Phrase:
    filled = {language: tuple(one.format(**parts[language]) for one in form.split("|")) for language, form in forms.items()}
    return Phrase(kind, item, filled)


def _date_parts(day: date) -> dict[str, dict[str, str]]:
    written = {"d": str(day.day), "y": str(day.year), "iso": day.isoformat()}
    parts = {
        language: {
            **written,
            "day": _day(day.day, language),
            "month": _months(language)[day.month],
            "weekday": _weekdays(language)[day.weekday()],
            "year": _year(day.year, language),
        }
        for language in LANGUAGES
    }
    parts["fr"]["d"] = "1er" if day.day == 1 else written["d"]
    return {**parts, FIGURES: written}


@cache
def _day(value: int, language: str) -> str:
    """A day of a month as it is said: the third, der dritte, le trois, el tres."""
    ordinal = language in ("en", "de") or (language == "fr" and value == 1)
    return str(num2words(value, lang=language, to="ordinal" if ordinal else "cardinal"))


@cache
def _year(value: int, language: str) -> str:
    return str(num2words(value, lang=language, to="year"))


@cache
def _months(language: str) -> Mapping[int, str]:
    return dict(get_month_names(locale=language))


@cache
def _weekdays(language: str) -> Mapping[int, str]:
    return dict(get_day_names(locale=language))


def _on_clock(hour: int) -> str:
    return str(hour % 12 or 12)


@cache
def _hour(hour: int, language: str) -> str:
    """An hour as a clock with hands names it: eight, acht, huit heures, las ocho."""
    hour = hour % 12 or 12
    if language == "fr":
        return "une heure" if hour == 1 else f"{cardinal(hour, language)} heures"
    if language == "es":
        return "la una" if hour == 1 else f"las {cardinal(hour, language)}"
    return cardinal(hour, language)
