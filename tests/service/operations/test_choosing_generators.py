"""The choice of a generator and of its class."""

from __future__ import annotations

import pytest

from service.errors import ProblemError
from service.operations.generators import find_class, find_generator, search_classes
from service.types import GenerateParams, GeneratorCard

NAMES = ("tench, Tinca tinca", "red fox, Vulpes vulpes", "grey fox", "teddy_bear", "grey fox")


def card(classes: tuple[str, ...] = NAMES, count: int | None = None, tokenizer: str | None = "vq", **fields: object):
    made = {"unconditional": False, "id": "lm"} | fields
    return GeneratorCard(
        hash="c" * 64,
        kind="lm",
        makes=("image",),
        tokenizer_hash="a" * 64,
        classes=classes,
        class_count=len(classes) if count is None else count,
        grid=(1, 4, 4),
        takes_prefix=True,
        needs_prefix=False,
        guided=True,
        defaults=GenerateParams(),
        slots=4,
        parameters=1,
        device="cpu",
        dtype="float32",
        tokenizer=tokenizer,
        **made,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (0, 0),
        (4, 4),
        ("tench, Tinca tinca", 0),
        ("TENCH", 0),
        ("vulpes  vulpes", 1),
        ("grey fox", 2),
        ("teddy bear", 3),
        ("Teddy_Bear", 3),
    ],
)
def test_a_class_is_found_by_id_name_or_synonym(wanted: int | str, found: int) -> None:
    assert find_class(card(), wanted) == found


@pytest.mark.parametrize(
    ("made", "wanted", "code", "part"),
    [
        (card(), 5, "unknown-class", "from 0 to 4; there is no 5"),
        (card(), "gray foxes", "unknown-class", "The nearest: `grey fox`"),
        (card(), "a photograph of a red fox", "unknown-class", "The nearest: `red fox, Vulpes vulpes`"),
        (card(), "zzz", "unknown-class", f"All of them: `{NAMES[0]}`, `{NAMES[1]}`"),
        (card(tuple(map(str, range(99))), 99), "zzz", "unknown-class", "GET /classes lists all of them"),
        (card(), None, "invalid-options", "makes samples of a class"),
        (card((), 0), 0, "unknown-class", "has no classes"),
        (card((), 10), 10, "unknown-class", "from 0 to 9"),
        (card((), 10), "fox", "unknown-class", "has this name"),
    ],
)
def test_an_unknown_class_is_refused(made: GeneratorCard, wanted: int | str | None, code: str, part: str) -> None:
    with pytest.raises(ProblemError, match=code) as refused:
        find_class(made, wanted)
    assert part in refused.value.detail


def test_a_sample_may_have_no_class_where_the_model_allows_it() -> None:
    assert find_class(card(unconditional=True), None) is None
    assert find_class(card((), 0), None) is None


def test_the_first_generator_is_the_default() -> None:
    cards = [card(id="one"), card(id="two")]
    assert find_generator(cards, None).id == "one"
    assert find_generator(cards, "two").id == "two"


@pytest.mark.parametrize(
    ("cards", "name", "code"),
    [
        ([], None, "unknown-model"),
        ([card()], "other", "unknown-model"),
        ([card(tokenizer=None)], None, "tokenizer-not-served"),
    ],
)
def test_a_generator_that_cannot_work_is_refused(cards: list[GeneratorCard], name: str | None, code: str) -> None:
    with pytest.raises(ProblemError, match=code):
        find_generator(cards, name)


def test_classes_are_searched_by_a_part_of_the_name() -> None:
    assert search_classes(card(), "FOX") == [(1, NAMES[1]), (2, NAMES[2]), (4, NAMES[4])]
    assert len(search_classes(card(), "")) == 5
    assert search_classes(card((), 3), "") == [(0, ""), (1, ""), (2, "")]
