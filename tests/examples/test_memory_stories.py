"""The stories that the memory model is trained and measured on."""

from __future__ import annotations

import pytest
from memory.grammar import (
    BEGINNINGS,
    LANGUAGES,
    QUERY,
    SENTENCES,
    SHORTEST,
    TOKENS,
    VOCABULARY,
    Story,
    Storyteller,
    forms,
    text_of,
    words_of,
)

DISTANCES = [*range(SHORTEST, 60), 104, 300]


def told(*, held_out: bool, seed: int = 0) -> list[Story]:
    """Stories of many distances, ten of each."""
    teller = Storyteller(seed, held_out=held_out)
    return [teller.story(distance) for distance in DISTANCES for _ in range(10)]


def sentences(story: Story) -> list[tuple[str, ...]]:
    """Its filler's whole sentences."""
    filler = " ".join(story.words[6 : -len(QUERY)])
    return [tuple(f"{sentence} .".split()) for sentence in filler.split(" . ")[:-1]]


@pytest.mark.parametrize("held_out", [False, True])
def test_a_story_is_a_beginning_filler_and_the_question(held_out: bool) -> None:
    """The country comes fifth, the blank as many words behind it as was asked for, and the answer is its language."""
    for story in told(held_out=held_out):
        country = story.words[4]
        assert " ".join(story.words[:4]) in BEGINNINGS
        assert story.words[-3:] == QUERY
        assert len(story.words) - 5 == story.distance
        assert story.answer == LANGUAGES[country]
        assert [VOCABULARY[token] for token in story.tokens] == list(story.words)


def test_no_language_is_named_before_the_blank() -> None:
    """Nor is there a sentence that could name one."""
    languages = set(LANGUAGES.values())
    assert not any(languages.intersection(form) for sentence in SENTENCES for form in forms(sentence))
    assert not any(languages.intersection(story.words) for story in told(held_out=True) + told(held_out=False))


def test_filler_says_nothing_of_the_country() -> None:
    """The same seed tells the same filler, distractors and all, whatever the country."""
    one, other = (Storyteller(3, held_out=True).story(100, country) for country in ("Pakistan", "Spain"))
    assert one.words[5:] == other.words[5:]
    assert one.words != other.words


def test_other_countries_are_named_in_other_roles() -> None:
    """Most long stories hold distractors, some of them the right country itself."""
    stories = [Storyteller(seed, held_out=True).story(100) for seed in range(300)]
    named = [[word for word in story.words[5:] if word in LANGUAGES] for story in stories]
    assert sum(map(bool, named)) > 250
    assert any(story.words[4] in names for story, names in zip(stories, named, strict=True))


def test_held_out_stories_are_of_sentences_never_trained_on() -> None:
    """No filler sentence is in both parts, and each kind of sentence is in both."""
    trained = {sentence for seed in range(5) for story in told(held_out=False, seed=seed) for sentence in sentences(story)}
    held_out = {sentence for seed in range(5) for story in told(held_out=True, seed=seed) for sentence in sentences(story)}
    assert len(held_out) > 200
    assert not trained & held_out
    assert all(held_out.intersection(forms(sentence)) and trained.intersection(forms(sentence)) for sentence in SENTENCES)


def test_the_same_seed_tells_the_same_stories() -> None:
    """And another one others."""
    assert told(held_out=True, seed=4) == told(held_out=True, seed=4)
    assert told(held_out=True, seed=4) != told(held_out=True, seed=5)


def test_a_distance_too_short_is_refused() -> None:
    """The full stop and the question always lie between."""
    with pytest.raises(ValueError, match="expected 4 or more, got 3"):
        Storyteller(0, held_out=True).story(3)


def test_text_becomes_words_and_text_again() -> None:
    """Words with their apostrophes and hyphens, punctuation marks alone and without a space before them."""
    text = "I grew up in Pakistan. We hadn't a well-known dog, nor 2 cats; yes!"
    words = words_of(text)
    assert " ".join(words) == "I grew up in Pakistan . We hadn't a well-known dog , nor 2 cats ; yes !"
    assert text_of(words) == text
    assert all(words_of(text_of(story.words)) == list(story.words) for story in told(held_out=True))


def test_the_vocabulary_is_as_small_as_it_is_said_to_be() -> None:
    """Every word once, in order, each a token of the codec."""
    assert len(VOCABULARY) == len(TOKENS) == 171
    assert list(VOCABULARY) == sorted(VOCABULARY)
    assert all(words_of(word) == [word] for word in VOCABULARY)
