"""Codecs at equal bytes: budgets are kept, and the quality that suffices is found."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.codecs import CODECS, decode, encode, first_quality, largest_within

RNG = np.random.default_rng(0)
PICTURE = np.kron(RNG.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.mark.parametrize("codec", CODECS)
def test_the_largest_file_within_a_budget(codec: str) -> None:
    sizes = [len(encode(PICTURE, codec, quality)) for quality in (1, 60)]
    fits = largest_within(PICTURE, codec, sizes[1] - 1)
    assert sizes[0] <= len(fits) < sizes[1]
    assert len(largest_within(PICTURE, codec, sizes[1] + 50)) >= len(fits)
    assert len(largest_within(PICTURE, codec, 1)) == sizes[0]
    assert decode(fits).shape == PICTURE.shape


@pytest.mark.parametrize("threshold", [1, 2, 50, 99, 100])
def test_the_first_quality_that_is_good(threshold: int) -> None:
    assert first_quality(lambda quality: quality >= threshold) == threshold
