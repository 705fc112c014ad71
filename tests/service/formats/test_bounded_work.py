"""Hostile bodies take work in proportion to what a problem document can say of them."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from service.errors import ProblemError
from service.formats import result
from service.formats.codes import read_codes
from service.formats.media_types import JSON
from service.formats.msgpack import MAX_ARRAY, MAX_ELEMENTS, Unpacker
from service.formats.result import EncodeMeta

SOURCE = {
    "media_type": "image/png",
    "codec": "png",
    "width": 1,
    "height": 1,
    "frames_in": 1,
    "fps": None,
    "duration_s": None,
}


def test_unknown_keys_are_refused_before_they_are_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EncodeMeta, "model_validate", lambda fields: pytest.fail("it was validated"))
    body = {"tokens": [[[1]]]} | dict.fromkeys(map(str, range(5000)), 1)
    with pytest.raises(ProblemError, match="colons"):
        read_codes(json.dumps(body).encode(), JSON)


def test_a_long_list_of_wrong_times_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []

    def count(error: ValidationError, model: object) -> list[dict[str, str]]:
        counts.append(error.error_count())
        return []

    monkeypatch.setattr(result, "field_errors", count)
    body = {"tokens": [[[1]]], "source": SOURCE | {"sampled_pts": [""] * 5000}}
    with pytest.raises(ProblemError, match="invalid-options"):
        read_codes(json.dumps(body).encode(), JSON)
    assert counts == [1]


@pytest.mark.parametrize("empty", [b"\x90", b"\x80"], ids=["list", "map"])
def test_empty_values_count_though_what_holds_them_has_not_ended(empty: bytes) -> None:
    level = b"\xdc" + MAX_ARRAY.to_bytes(2) + empty * (MAX_ARRAY - 1)  # the last element is the next level
    with pytest.raises(ProblemError, match="elements"):
        list(Unpacker(2**20).feed(b"\x81\xa1a" + level * (2 + MAX_ELEMENTS // MAX_ARRAY)))
