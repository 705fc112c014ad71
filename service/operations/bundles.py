"""The choice of the bundle that does the work."""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import ProblemError
from service.formats.result import EncodeMeta
from service.operations.options import DecodeOptions
from service.types import ModelCard


def find_card(cards: Sequence[ModelCard], name: str | None) -> ModelCard:
    """Return the bundle that a request names, or the default one.

    Raises:
        ProblemError: `unknown-model`, listing the bundles that are served.
    """
    if not cards:
        raise ProblemError("not-ready", "No bundle is loaded yet. Try again in a few seconds.", retry_after_seconds=5)
    if name is None:
        return cards[0]
    for card in cards:
        if card.id == name:
            return card
    raise ProblemError("unknown-model", f"The models here are {', '.join(card.id for card in cards)}.")


def find_decoder(cards: Sequence[ModelCard], options: DecodeOptions, meta: EncodeMeta) -> ModelCard:
    """Return the bundle that made the tokens.

    Args:
        cards: the bundles that are served.
        options: may name the model and the hash.
        meta: may name them too.

    Raises:
        ProblemError: `invalid-options` without a hash, `model-mismatch` when the bundle of that hash is not served
            under the name that was asked for, `unknown-model`.
    """
    if options.bundle and meta.bundle and options.bundle != meta.bundle:
        detail = f"The query names the bundle {options.bundle}, the metadata {meta.bundle}. Send one of them."
        raise ProblemError("model-mismatch", detail)
    made_by = options.bundle or meta.bundle
    if made_by is None:
        errors = [{"pointer": "/bundle", "detail": "The hash of the bundle that made the tokens is missing."}]
        detail = (
            "These tokens do not say which bundle made them, and only that one decodes them. Name its hash in `bundle`."
        )
        raise ProblemError("invalid-options", detail, errors=errors)
    if options.model is None:
        for card in cards:
            if card.hash == made_by:
                return card
    known = {card.id for card in cards}
    card = find_card(cards, options.model or (meta.model if meta.model in known else None))
    if card.hash != made_by:
        detail = f"The tokens were made by bundle {made_by}, and {card.id} is bundle {card.hash}."
        served = [other.id for other in cards if other.hash == made_by]
        detail += f" Name its model, {served[0]}." if served else " No bundle of that hash is here."
        raise ProblemError("model-mismatch", detail)
    return card
