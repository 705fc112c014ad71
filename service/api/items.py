"""Bodies of many items: each is worked on and refused by itself; options, deadline and place are those of the body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.responses import Response

from media.errors import MediaError
from service.api.caller import NOT_BEGUN
from service.api.exchange import Exchange
from service.errors import ProblemError
from service.formats.media_types import MSGPACK
from service.formats.msgpack import pack
from service.offload import offload
from service.settings import Limits

Upload = TypeVar("Upload")
Claim = Callable[[int], None]  # takes latent positions of those that a body may have, or refuses
Outcome = dict[str, Any] | ProblemError | MediaError  # an answer or a refusal


class PartialResponse(Response):
    """An answer with refusals in it, which another attempt may not have: it is not kept to be given again."""


@dataclass(frozen=True)
class Items(Generic[Upload]):
    """The items of one body in their order, each an upload or the refusal of it, and the `options` of the body."""

    uploads: tuple[Upload | ProblemError, ...]
    options: object = None


def parse_items(fields: dict[str, Any], limits: Limits, parse: Callable[[dict[str, Any]], Upload]) -> Items[Upload]:
    """Return the items in a map that has the field `items`.

    Args:
        fields: the map.
        limits: of one request.
        parse: makes an upload of the map of one item.

    Raises:
        ProblemError: for anything wrong with the body as a whole.
    """
    items = fields["items"]
    if not set(fields) <= {"items", "options"} or not isinstance(items, list) or not items:
        detail = "A body of many items must hold `items`, a list of one map or more, and perhaps `options`."
        raise ProblemError("missing-part" if items == [] else "malformed-body", detail)
    if len(items) > limits.body_items:
        detail = f"A body may have {limits.body_items} items; this one has {len(items)}. Send several bodies."
        raise ProblemError("body-too-large", detail, limits.body_items, len(items))

    def one(item: object) -> Upload | ProblemError:
        if not isinstance(item, dict):
            return ProblemError("malformed-body", "Each of `items` must be a map.")
        try:
            return parse(item)
        except (ProblemError, MediaError) as error:
            return _problem(error)

    return Items(tuple(map(one, items)), fields.get("options"))


async def answer_items(
    exchange: Exchange, items: Items[Upload], work: Callable[[Sequence[Upload], Claim], Awaitable[Sequence[Outcome]]]
) -> Response:
    """Return the answers of all items, each a map of its own or its problem document.

    Args:
        exchange: the request.
        items: of its body.
        work: returns the outcome of each upload, and claims positions before they are computed.

    Raises:
        ProblemError: `not-acceptable`, and the refusal of all items for a moment in which none of them was begun.
    """
    exchange.choose((MSGPACK,), "An answer of many items")
    most, claimed = exchange.limits.tokens, 0

    def claim(positions: int) -> None:
        nonlocal claimed
        if claimed + positions > most:
            detail = f"A body may have {most} positions, all items together. Send this item in another one."
            raise ProblemError("too-many-tokens", detail, most, claimed + positions)
        claimed += positions

    worked = iter(await work([upload for upload in items.uploads if not isinstance(upload, ProblemError)], claim))
    outcomes = [upload if isinstance(upload, ProblemError) else next(worked) for upload in items.uploads]
    refused = [outcome for outcome in outcomes if not isinstance(outcome, dict)]
    not_begun = [each for each in refused if isinstance(each, ProblemError) and each.code in NOT_BEGUN]
    if len(not_begun) == len(outcomes):  # its caller waits, and the like of it is refused before it is read
        raise max(not_begun, key=lambda problem: problem.retry_after_seconds or 0.0)

    def write() -> bytes:
        answers = [
            outcome if isinstance(outcome, dict) else {"problem": _problem(outcome).document(exchange.id)}
            for outcome in outcomes
        ]
        return pack({"items": answers})

    data = await offload(sum(map(_bytes, outcomes)), write)
    kind = PartialResponse if refused else Response
    return kind(data, headers={"Vary": "Accept"}, media_type=MSGPACK)


def _bytes(outcome: Outcome) -> int:
    fields = outcome.values() if isinstance(outcome, dict) else ()
    return sum(len(field["data"]) for field in fields if isinstance(field, dict) and "data" in field)


def _problem(error: ProblemError | MediaError) -> ProblemError:
    return error if isinstance(error, ProblemError) else ProblemError.of(error)
