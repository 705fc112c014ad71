"""Many items in one body: how they are divided into calls, and the reading of their answers; nothing here sends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from service.client.calls import Call
from service.client.media import Body, Media, media_body
from service.client.retries import ServiceError
from service.formats.media_types import MSGPACK
from service.formats.msgpack import pack, result_from, unpack
from service.formats.result import EncodeResult
from service.formats.tensors import pack_tensor

BODY_ITEMS = 64
BODY_BYTES = 48 * 2**20
# Refusals for the company that an item had in its body, or for the moment; it is sent alone.
COMPANY_CODES = frozenset({"too-many-tokens", "overloaded", "rate-limited", "gpu-memory", "draining", "not-ready"})

Outcome = EncodeResult | ServiceError


def encode_calls(media: Iterable[Media], options: Mapping[str, Any]) -> Iterator[tuple[list[Body], Call | None]]:
    """Yield the calls that encode many items, each with its items; without a call where one item is sent alone.

    Raises:
        TypeError, ValueError: see `media_body`.
        OSError: a file cannot be read.
    """
    bodies: list[Body] = []
    held = 0
    for each in media:
        body = media_body(each, animated=bool(options.get("animated")))
        size = _size(body)
        if bodies and (len(bodies) == BODY_ITEMS or held + size > BODY_BYTES):
            yield bodies, _call(bodies, options)
            bodies, held = [], 0
        if size > BODY_BYTES:
            yield [body], None
            continue
        bodies.append(body)
        held += size
    if bodies:
        yield bodies, _call(bodies, options)


def outcomes_of(response: httpx.Response) -> list[Outcome | None]:
    """Return the result or the refusal of each item of an answer; None for an item that must be sent alone."""
    items = unpack(response.content, len(response.content))["items"]
    return [_outcome(item) for item in items]


def _outcome(item: dict[str, Any]) -> Outcome | None:
    problem = item.get("problem")
    if problem is None:
        return result_from(item)
    if problem["code"] in COMPANY_CODES:
        return None
    return ServiceError(problem["detail"], problem["status"], problem)


def _size(body: Body) -> int:
    if isinstance(body, np.ndarray):
        return body.nbytes
    return body.stat().st_size if isinstance(body, Path) else len(body)


def _call(bodies: list[Body], options: Mapping[str, Any]) -> Call:
    packed = pack({"items": [_item(body) for body in bodies], "options": dict(options)})
    return Call("POST", "/encode", {}, {"Content-Type": MSGPACK, "Accept": MSGPACK}, packed)


def _item(body: Body) -> dict[str, Any]:
    if isinstance(body, np.ndarray):
        return {"array": pack_tensor(body)}
    return {"media": body.read_bytes() if isinstance(body, Path) else body}
