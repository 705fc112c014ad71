"""Options of generate: what they accept, and the pointer of each refusal."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from media.types import MediaOptions
from service.api.query import parse_options
from service.errors import ProblemError
from service.operations.options_generate import GenerateOptions


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("207", 207),
        ("class:207", 207),
        (207, 207),
        ("0", 0),
        ("red fox", "red fox"),
        ("class:fox", "class:fox"),
        ("-1", "-1"),
    ],
)
def test_a_class_is_an_id_or_a_name(given: object, made: object) -> None:
    assert parse_options(GenerateOptions, b"", {"class": given}).class_ == made


BAD: list[tuple[str, Any]] = [
    ("class", ""),
    ("class", "x" * 257),
    ("class", -1),
    ("class", 10**9),
    ("class", True),
    ("class", 1.5),
    ("class", [1]),
    ("kind", "music"),
    ("n", 0),
    ("n", 65),
    ("n", 1.5),
    ("seed", -1),
    ("seed", 2**63),
    ("frames", 0),
    ("frames", 2**20 + 1),
    ("prefix_frames", 0),
    ("temperature", -0.1),
    ("temperature", "nan"),
    ("temperature", "inf"),
    ("temperature", "1e9"),
    ("top_k", -1),
    ("top_k", 2**21),
    ("top_p", 0),
    ("top_p", 1.01),
    ("top_p", "nan"),
    ("guidance", -1),
    ("guidance", "nan"),
    ("guidance_growth", -1),
    ("steps", 0),
    ("steps", 1001),
    ("sampler", "euler"),
    ("output", "latents"),
    ("fps", 0),
    ("fps", "nan"),
    ("quality", 0),
    ("start_s", -1),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_with_its_pointer(name: str, value: object) -> None:
    for query, body in ((urlencode({name: value}).encode(), None), (b"", {name: value})):
        if not isinstance(value, str) and body is None and name == "class":
            continue  # as text these are ids or names
        with pytest.raises(ProblemError) as refused:
            parse_options(GenerateOptions, query, body)
        assert refused.value.code == "invalid-options"
        assert [entry["pointer"] for entry in refused.value.errors] == [f"/{name}"]


@pytest.mark.parametrize("name", ["class_", "label", "prompt", "size"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ProblemError) as refused:
        parse_options(GenerateOptions, f"{name}=1".encode())
    [entry] = refused.value.errors
    assert (entry["pointer"], f"`{name}`" in entry["detail"]) == (f"/{name}", True)
    assert ("Is it `class`?" in entry["detail"]) == (name == "class_")
    assert "kind, class, n," in refused.value.detail


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"kind": "image", "frames": 5}, "/frames"),
        ({"kind": "image", "prefix_frames": 5}, "/prefix_frames"),
        ({"frames": 5, "prefix_frames": 5}, "/prefix_frames"),
        ({"frames": 5, "prefix_frames": 9}, "/prefix_frames"),
        ({"start_s": 2, "end_s": 1}, "/end_s"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ProblemError) as refused:
        parse_options(GenerateOptions, b"", options)
    assert [entry["pointer"] for entry in refused.value.errors] == [pointer]


def test_the_prefix_is_read_at_the_size_of_the_model() -> None:
    options = parse_options(GenerateOptions, b"fit=contain&start_s=1&end_s=2&prefix_frames=5")
    read = options.prefix_request(64, 96, 5).media()
    assert read == MediaOptions(size=(64, 96), fit="contain", frames=5, start_s=1, end_s=2, animated=True)
