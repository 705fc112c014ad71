"""The size of a body by its header, as all layers read it."""

from __future__ import annotations

import pytest

from service.api.content_length import content_length


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("0", 0),
        ("0012", 12),
        ("9" * 18, 10**18 - 1),
        *dict.fromkeys(("", "-1", "+1", "1_0", "1 ", "²", "٣", "9" * 19)).items(),
    ],
)
def test_a_size_is_a_number_of_up_to_18_digits(value: str, size: int | None) -> None:
    assert content_length(value) == size
