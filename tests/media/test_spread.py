"""Places that are evenly spread."""

from __future__ import annotations

from media.spread import spread


def test_ends_are_among_the_places_that_are_spread() -> None:
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(7, 2) == [0, 6]
    assert spread(7, 1) == [0]
    assert spread(0, 3) == []
