"""Content negotiation: the `Accept` header against what a route can answer (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from service.errors import ProblemError
from service.formats.media_types import MSGPACK

MAX_ACCEPT_CHARS = 4096
MAX_RANGES = 64
REMEMBERED_HEADERS = 256
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
RANGE = re.compile(rf"({TOKEN})/({TOKEN})")
QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|\.[0-9]{1,3}|1(?:\.0{0,3})?")
PARAMETER = re.compile(rf'({TOKEN})=({TOKEN}|"[^"]*")')
ANY = "*/*"
MSGPACK_ALIASES = {"application/x-msgpack": MSGPACK, "application/vnd.msgpack": MSGPACK}


@lru_cache(REMEMBERED_HEADERS)
def parse_accept(header: str | None) -> tuple[tuple[str, float], ...]:
    """Return media ranges and their weights; a missing or empty header accepts everything.

    Raises:
        ProblemError: `bad-header`.
    """
    if header is None or not header.strip():
        return ((ANY, 1.0),)
    parts = [part.strip() for part in header.split(",")]
    if len(header) > MAX_ACCEPT_CHARS or len(parts) > MAX_RANGES:
        detail = f"The Accept header may have {MAX_ACCEPT_CHARS} characters and {MAX_RANGES} media ranges."
        raise ProblemError("bad-header", detail, limit=MAX_ACCEPT_CHARS, actual=len(header))
    return tuple(_range(part) for part in parts if part)


def choose(header: str | None, offers: Sequence[str]) -> str | None:
    """Return the best offer, or None when none is acceptable; programs send one header for ever, so it is remembered.

    Args:
        header: the `Accept` header.
        offers: media types, the server's favourite first.

    Raises:
        ProblemError: `bad-header`.
    """
    return _choose(header, tuple(offers))


@lru_cache(REMEMBERED_HEADERS)
def _choose(header: str | None, offers: tuple[str, ...]) -> str | None:
    ranges = parse_accept(header)
    best, best_weight = None, 0.0
    for offer in offers:
        weight = _weight(offer, ranges)
        if weight > best_weight:
            best, best_weight = offer, weight
    return best


def accepts_by_name(header: str | None, media_type: str) -> bool:
    """Return whether the header names this very type, with a weight above 0.

    Raises:
        ProblemError: `bad-header`.
    """
    return any(name == media_type and weight > 0 for name, weight in parse_accept(header))


def require(header: str | None, offers: Sequence[str], answer: str) -> str:
    """Return the best offer.

    Args:
        header: the `Accept` header.
        offers: media types, the server's favourite first.
        answer: its name at the start of the refusal.

    Raises:
        ProblemError: `not-acceptable`, listing the offers; `bad-header`.
    """
    chosen = choose(header, offers)
    if chosen is None:
        raise ProblemError("not-acceptable", f"{answer} can be sent as {', '.join(offers)}. Accept one of them.")
    return chosen


def _range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip() for part in text.split(";"))
    if name == "*":
        name = ANY  # Java's default header says this, and writes its q-values as `.2`
    match = RANGE.fullmatch(name)
    if match is None or (match[1] == "*" and match[2] != "*"):
        raise ProblemError("bad-header", "The Accept header must hold media ranges, such as image/png or image/*.")
    weight = 1.0
    for parameter in filter(None, parameters):
        pair = PARAMETER.fullmatch(parameter)
        if pair is None:
            raise ProblemError("bad-header", "The Accept header holds a parameter that is not of the form name=value.")
        if pair[1].lower() == "q":
            if QVALUE.fullmatch(pair[2]) is None:
                raise ProblemError("bad-header", "A q-value must be from 0 to 1, with at most three decimals.")
            weight = float(pair[2])
    name = name.lower()
    return MSGPACK_ALIASES.get(name, name), weight


def _weight(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the weight of the most specific range that matches."""
    for pattern in (offer, f"{offer.partition('/')[0]}/*", ANY):
        weights = [weight for name, weight in ranges if name == pattern]
        if weights:
            return max(weights)
    return 0.0
