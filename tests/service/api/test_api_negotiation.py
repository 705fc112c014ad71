"""The Accept header against what can be answered."""

from __future__ import annotations

import pytest

from service.api.negotiation import choose, parse_accept, require
from service.errors import ProblemError
from service.formats.pixels import pixel_offers

PICTURE, CLIP = pixel_offers(1), pixel_offers(9)


@pytest.mark.parametrize(
    ("header", "picture", "clip"),
    [
        (None, "image/png", "video/mp4"),
        ("", "image/png", "video/mp4"),
        ("*/*", "image/png", "video/mp4"),
        ("image/*", "image/png", "image/gif"),
        ("video/*", "video/mp4", "video/mp4"),
        ("IMAGE/JPEG", "image/jpeg", None),
        ("image/png", "image/png", None),
        ("image/webp;q=0.5, image/jpeg;q=0.4", "image/webp", None),
        ("image/webp;q=0.4, image/jpeg;q=0.5", "image/jpeg", None),
        ("image/*;q=0.9, image/png;q=0.1", "image/jpeg", "image/gif"),
        ("*/*;q=0.1, video/webm", "video/webm", "video/webm"),
        ("image/png;q=0, */*", "image/jpeg", "video/mp4"),
        ("*/*;q=0", None, None),
        ("text/html, application/xhtml+xml, */*;q=0.8", "image/png", "video/mp4"),
        ("text/html", None, None),
        ("application/x-msgpack", "application/msgpack", "application/msgpack"),
        ("application/vnd.msgpack;q=1.000", "application/msgpack", "application/msgpack"),
        ('image/png;profile="a b";q=0.3, image/webp;q=0.2', "image/png", None),
        ("image/png,,image/jpeg", "image/png", None),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "image/jpeg", "image/gif"),
        ("*", "image/png", "video/mp4"),
        ("*;q=.2, image/webp;q=.125", "image/png", "video/mp4"),
        ("*;q=0", None, None),
    ],
)
def test_best_offer(header: str | None, picture: str | None, clip: str | None) -> None:
    assert choose(header, PICTURE) == picture
    assert choose(header, CLIP) == clip


@pytest.mark.parametrize(
    "header",
    ["png", "image/", "/png", "*/png", "image/png;q", "image/png;q=1.1", "image/png;q=-1", "image/png;q=1.0000",
     "image/png;q=a", "image/png;q=.", "image/png;q=.1234", "*/", "**", "*;q=1.1",
     "a b/c", "image/png image/jpeg", "x/y," * 65, "x/" + "y" * 5000],
)  # fmt: skip
def test_nonsense_is_a_bad_header(header: str) -> None:
    with pytest.raises(ProblemError, match="bad-header"):
        parse_accept(header)


def test_refusal_lists_the_offers() -> None:
    with pytest.raises(ProblemError, match="A clip of 9 frames can be sent as video/mp4, ") as caught:
        require("image/png", CLIP, "A clip of 9 frames")
    assert caught.value.code == "not-acceptable"
