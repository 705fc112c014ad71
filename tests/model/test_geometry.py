"""Sizes and grids: the laws that padding and cropping rest on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.geometry import Geometry, Size

EXTENTS = st.integers(1, 300)
SIZES = st.tuples(EXTENTS, EXTENTS, EXTENTS)
GEOMETRIES = st.builds(Geometry, st.integers(1, 16), st.integers(1, 8))


@given(GEOMETRIES, SIZES)
def test_padding_covers_the_clip_by_less_than_a_patch(geometry: Geometry, size: Size) -> None:
    padded = geometry.padded(size)
    for have, need, step in zip(padded, size, (geometry.temporal_patch, geometry.patch, geometry.patch), strict=True):
        assert 0 <= have - need < step
    assert geometry.grid(padded) == geometry.grid(size)


@given(GEOMETRIES, SIZES)
def test_a_grid_is_that_of_its_size(geometry: Geometry, grid: Size) -> None:
    assert geometry.grid(geometry.size(grid)) == grid
    assert geometry.positions(geometry.size(grid)) == grid[0] * grid[1] * grid[2]


def test_the_first_frame_has_a_latent_frame_of_its_own() -> None:
    geometry = Geometry(patch=8, temporal_patch=4)
    assert [geometry.grid((frames, 16, 24)) for frames in (1, 2, 5, 6)] == [(1, 2, 3), (2, 2, 3), (2, 2, 3), (3, 2, 3)]
    assert geometry.size((3, 2, 3)) == (9, 16, 24)


@pytest.mark.parametrize("size", [(0, 8, 8), (1, 0, 8), (1, 8, -1)])
def test_an_empty_clip_has_no_grid(size: Size) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        Geometry(8, 4).grid(size)
