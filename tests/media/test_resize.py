"""Resize, crop and pad: sizes are met exactly, and what was done can be undone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_samples import pattern, psnr
from PIL import Image

from media.errors import MediaError
from media.resize import plan
from media.types import Fit, MediaOptions
from service.settings import Limits

sides = st.integers(1, 400)
targets = st.tuples(st.integers(1, 64), st.integers(1, 64))
fits = st.sampled_from(["cover", "contain", "stretch"])


@given(sides, sides, targets, fits)
def test_every_frame_has_the_size_that_was_asked_for(height: int, width: int, size: tuple[int, int], fit: Fit) -> None:
    chosen = plan(height, width, size, fit, None)
    frame = chosen.frame(np.full((height, width, 3), 200, np.uint8))
    assert frame.shape == (*size, 3)
    assert frame.dtype == np.uint8
    assert frame.flags.c_contiguous
    inside = frame
    if chosen.preprocess.pad is not None:
        top, left, out_height, out_width = chosen.preprocess.pad
        assert (out_height, out_width) == size
        inner_height, inner_width = chosen.target
        inside = frame[top : top + inner_height, left : left + inner_width]
        assert np.count_nonzero(frame) == np.count_nonzero(inside)
    assert (inside == 200).all()


@given(sides, sides, targets, fits)
def test_the_steps_lead_from_the_source_to_the_size(height: int, width: int, size: tuple[int, int], fit: Fit) -> None:
    steps = plan(height, width, size, fit, None).preprocess
    now = (height, width) if steps.resize is None else steps.resize
    if steps.crop is not None:
        top, left, crop_height, crop_width = steps.crop
        assert top >= 0
        assert left >= 0
        assert top + crop_height <= now[0]
        assert left + crop_width <= now[1]
        now = (crop_height, crop_width)
    if steps.pad is not None:
        top, left, pad_height, pad_width = steps.pad
        assert top + now[0] <= pad_height
        assert left + now[1] <= pad_width
        now = (pad_height, pad_width)
    assert now == size


def test_a_crop_is_what_resizing_and_cutting_gives() -> None:
    source = pattern(1, 240, 400)[0]
    chosen = plan(240, 400, (96, 96), "cover", None)
    assert chosen.preprocess.resize == (96, 160)
    assert chosen.preprocess.crop == (0, 32, 96, 96)
    whole = Image.fromarray(source).resize((160, 96), Image.Resampling.LANCZOS)
    assert psnr(chosen.frame(source), np.asarray(whole)[:, 32:128]) > 40


def test_a_source_read_at_a_fraction_lands_on_the_same_pixels() -> None:
    source = pattern(1, 320, 480)[0]
    half = np.asarray(Image.fromarray(source).reduce(2))
    chosen = plan(320, 480, (64, 64), "cover", None)
    assert psnr(chosen.frame(source), chosen.frame(half)) > 38


def test_no_size_changes_nothing() -> None:
    source = pattern(1, 31, 17)[0]
    assert np.array_equal(plan(31, 17, None, "cover", None).frame(source), source)
    assert np.array_equal(plan(31, 17, (31, 17), "contain", None).frame(source), source)


def test_a_thin_strip_does_not_grow_on_its_way_to_a_square() -> None:
    chosen = plan(1, 16_384, (128, 128), "cover", Limits())
    assert chosen.preprocess.resize == (128, 2_097_152)  # 800 MB if it were ever made
    assert chosen.frame(np.zeros((1, 16_384, 3), np.uint8)).shape == (128, 128, 3)


def test_too_large_frames_name_the_option() -> None:
    with pytest.raises(MediaError, match="`size`") as caught:
        plan(3000, 3000, None, "cover", Limits())
    assert caught.value.code == "too-many-pixels"
    assert caught.value.actual == 9_000_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", (0, 8)),
        ("size", (8, -1)),
        ("fit", "zoom"),
        ("sampling", "random"),
        ("frames", 0),
        ("stride", 0),
        ("start_s", -1.0),
        ("start_s", float("nan")),
        ("end_s", float("inf")),
        ("end_s", 0.0),
    ],
)
def test_options_out_of_range_are_named(field: str, value: object) -> None:
    with pytest.raises(MediaError) as caught:
        MediaOptions(**{field: value})  # type: ignore[arg-type]
    assert caught.value.code == "invalid-options"
    assert caught.value.errors[0]["pointer"] == f"/{field}"
