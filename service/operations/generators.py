"""The choice of the generator that does the work, and of the class that it makes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from service.errors import ProblemError
from service.types import Backend, GeneratorBackend, GeneratorCard, ModelCard

NEAREST_NAMES = 5
FEW_CLASSES = 20  # named in full by a refusal
NEAREST_RATIO = 0.5  # of equal letters, below which a name does not help


async def served(backend: Backend, generators: GeneratorBackend) -> tuple[list[ModelCard], list[GeneratorCard]]:
    """Return the tokenizers and the generators, each of which names its tokenizer where that one is served."""
    cards = await backend.models()
    by_hash = {card.hash: card.id for card in reversed(cards)}
    return cards, [replace(card, tokenizer=by_hash.get(card.tokenizer_hash)) for card in await generators.generators()]


def find_generator(cards: Sequence[GeneratorCard], name: str | None) -> GeneratorCard:
    """Return the generator that a request names, or the default one.

    Args:
        cards: the second part of `served`.
        name: id of a generator, or None.

    Raises:
        ProblemError: `unknown-model`; `tokenizer-not-served` when nothing could turn its codes into pixels.
    """
    if not cards:
        detail = "No generator is served here. The setting OMNITOK_GENERATORS names the bundles of generators."
        raise ProblemError("unknown-model", detail)
    card = cards[0] if name is None else next((card for card in cards if card.id == name), None)
    if card is None:
        raise ProblemError("unknown-model", f"The generators here are {', '.join(card.id for card in cards)}.")
    if card.tokenizer is None:
        detail = f"The generator {card.id} needs the tokenizer bundle {card.tokenizer_hash}, which is not served here."
        raise ProblemError("tokenizer-not-served", f"{detail} Add it to OMNITOK_BUNDLES.")
    return card


def find_class(card: GeneratorCard, wanted: int | str | None) -> int | None:
    """Return the class that a request names by id or by name, or None for a sample without a class.

    Raises:
        ProblemError: `unknown-class`, with the nearest names; `invalid-options` when the generator needs a class.
    """
    if wanted is None:
        if card.class_count and not card.unconditional:
            detail = f"The generator {card.id} makes samples of a class. GET /classes lists its {card.class_count}."
            raise ProblemError.of_option("class", detail)
        return None
    if not card.class_count:
        raise ProblemError("unknown-class", f"The generator {card.id} has no classes. Leave out `class`.")
    if isinstance(wanted, int):
        if wanted < card.class_count:
            return wanted
        detail = f"The classes of {card.id} go from 0 to {card.class_count - 1}; there is no {wanted}."
        raise ProblemError("unknown-class", detail, limit=card.class_count - 1, actual=wanted)
    by_name = _names(card)
    if (found := by_name.get(_plain(wanted))) is not None:
        return found
    detail = f"No class of {card.id} has this name."
    if near := _nearest(card, _plain(wanted), by_name):
        detail += f" The nearest: {_listed(near)}."
    few = len(card.classes) if len(card.classes) <= FEW_CLASSES else 0
    detail += f" All of them: {_listed(card.classes)}." if few else " GET /classes lists all of them."
    raise ProblemError("unknown-class", detail)


def search_classes(card: GeneratorCard, query: str) -> list[tuple[int, str]]:
    """Return ids and names of the classes whose name holds the text, in any case; all of them for an empty one."""
    names = card.classes or [""] * card.class_count
    return [(index, name) for index, name in enumerate(names) if _plain(query) in _plain(name)]


def _names(card: GeneratorCard) -> dict[str, int]:
    """Return the classes by whole names and by the synonyms that commas separate; the first of equal ones counts."""
    whole = {_plain(name): index for index, name in reversed(list(enumerate(card.classes)))}
    parts = [(part, index) for index, name in enumerate(card.classes) for part in name.split(",")]
    return {_plain(part): index for part, index in reversed(parts)} | whole


def _nearest(card: GeneratorCard, wanted: str, by_name: dict[str, int]) -> list[str]:
    """Return the names that the text holds, and those that are spelled much like it."""
    held = [name for name in by_name if name and f" {name} " in f" {wanted} "]
    alike = difflib.get_close_matches(wanted, by_name, NEAREST_NAMES, NEAREST_RATIO)
    return list(dict.fromkeys(card.classes[by_name[name]] for name in (*held, *alike)))[:NEAREST_NAMES]


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").split())


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
