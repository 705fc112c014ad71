"""The loader of data in memory: items by number alone, whatever the ranks; right pixels, sizes and mixes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.data.loaders import device_loader
from training.data.loaders.batch import BatchSpec
from training.data.loaders.device_loader import DeviceLoader
from training.data.loaders.item_rng import epoch_order, item_uniforms
from training.distributed import Ranks
from training.errors import TrainingError

CPU = torch.device("cpu")
FRAMES = 5


def coded(count: int, frames: int, size: int, first: int) -> Tensor:
    """Pixels that say where they are: red the row, green the column, blue the item and frame."""
    pixels = torch.empty(count, frames, size, size, 3, dtype=torch.uint8)
    pixels[..., 0] = torch.arange(size).view(-1, 1)
    pixels[..., 1] = torch.arange(size)
    pixels[..., 2] = first + torch.arange(count * frames).view(count, frames, 1, 1)
    return pixels


PHOTOS = [[coded(3, 1, 64, 0), coded(2, 1, 64, 3)], [coded(2, 1, 128, 5)]]
CLIPS = [[coded(4, FRAMES + 2, 32, 100)], [coded(3, FRAMES, 64, 200)]]


def loader(rank: int = 0, ranks: int = 1, seed: int = 7) -> DeviceLoader:
    return DeviceLoader(PHOTOS, CLIPS, CPU, seed, Ranks(rank, ranks))


def one(source: DeviceLoader, spec: BatchSpec) -> Tensor:
    return next(source.stream([spec]))


def batch_at(kind: str, side: int, count: int, first: int) -> BatchSpec:
    return BatchSpec(kind, side, count, first, 1 if kind == "images" else FRAMES)  # type: ignore[arg-type]


@given(
    st.sampled_from(["images", "clips"]), st.sampled_from([16, 32, 64]), st.integers(0, 40), st.integers(1, 4),
    st.integers(1, 4),
)  # fmt: skip
def test_items_depend_on_their_number_alone(kind: str, side: int, first: int, ranks: int, each: int) -> None:
    """R ranks draw what one does, and so does a run that goes on anywhere, with batches of any size."""
    count = ranks * each
    whole = one(loader(), batch_at(kind, side, count, first))
    shared = torch.cat([one(loader(rank, ranks), batch_at(kind, side, count, first)) for rank in range(ranks)])
    single = torch.cat([one(loader(), batch_at(kind, side, 1, number)) for number in range(first, first + count)])
    assert torch.equal(whole, shared)
    assert torch.equal(whole, single)
    assert whole.dtype == torch.uint8
    assert whole.shape == (count, 1 if kind == "images" else FRAMES, side, side, 3)
    assert whole.is_contiguous()


def test_seeds_draw_differently() -> None:
    specs = [one(loader(seed=seed), BatchSpec("images", 32, 30, 0, 1)) for seed in (7, 8)]
    assert not torch.equal(*specs)


@given(st.integers(1, 50), st.integers(0, 200), st.integers(1, 120))
def test_every_epoch_takes_each_source_once(size: int, first: int, count: int) -> None:
    stop = (first // size + 2) * size
    epoch = epoch_order(3, "images", size, range(stop - size, stop))
    assert sorted(epoch) == list(range(size))
    part = epoch_order(3, "images", size, range(first, first + count))
    assert part.tolist() == [
        int(epoch_order(3, "images", size, range(n, n + 1))[0]) for n in range(first, first + count)
    ]


def test_numbers_are_uniform_and_differ_between_items() -> None:
    numbers = item_uniforms(0, "clips", range(50_000))
    assert np.abs(numbers.mean(0) - 0.5).max() < 0.01
    assert len(np.unique(numbers)) == numbers.size
    assert np.abs(np.corrcoef(numbers.T) - np.eye(16)).max() < 0.025


def test_near_crops_are_the_data_and_half_are_mirrored() -> None:
    """Where the side is the sets' own, an item is an item of a set or its mirror image, with consecutive frames."""
    clips = one(DeviceLoader([], CLIPS[:1], CPU, 0), BatchSpec("clips", 32, 400, 0, FRAMES))
    mirrored = clips[:, 0, 0, 0, 1] == 31
    assert 160 < int(mirrored.sum()) < 240
    upright = torch.where(mirrored.view(-1, 1, 1, 1, 1), clips.flip(3), clips)
    codes = upright[:, :, 0, 0, 2].int() - 100
    starts = codes[:, :1]
    assert torch.equal(codes - starts, torch.arange(FRAMES).expand(400, -1).int())
    assert sorted(set((starts % (FRAMES + 2)).flatten().tolist())) == [0, 1, 2]  # every window that fits
    assert torch.equal(upright[..., 0].int(), torch.arange(32).view(-1, 1).expand(400, FRAMES, 32, 32).int())
    assert torch.equal(upright[..., 1].int(), torch.arange(32).expand(400, FRAMES, 32, 32).int())


def test_every_other_photograph_is_seen_whole() -> None:
    """At half the size, neighbours are 1 apart in near squares and 2 apart in far ones, whose pixels are averages."""
    photos = one(DeviceLoader([[coded(4, 1, 64, 0)]], [], CPU, 0), BatchSpec("images", 32, 40, 0, 1))
    steps = photos[:, 0, 1, 0, 0].int() - photos[:, 0, 0, 0, 0].int()
    assert steps.tolist() == [1, 2] * 20
    far = photos[1::2, 0, :, 0, 0].int()
    assert torch.equal(far, (2 * torch.arange(32) + 1).expand(20, -1).int())  # mean of two rows, rounded half up


def test_images_mix_photographs_and_frames_and_clips_mix_pans() -> None:
    images = one(loader(), BatchSpec("images", 32, 30, 0, 1))
    assert ((images[:, 0, 0, 0, 2] >= 100).tolist()) == [False, False, True] * 10
    clips = one(loader(), BatchSpec("clips", 32, 30, 0, FRAMES))
    still = clips[:, 0, 0, 0, 2] == clips[:, -1, 0, 0, 2]  # frames of a clip differ in blue, views of a photo do not
    assert still.tolist() == [False, False, True] * 10


def test_pans_keep_a_photograph_in_view() -> None:
    """A view moves straight, so the speed of a corner is constant but for rounding; no border is ever seen."""
    pans = one(DeviceLoader(PHOTOS[1:], CLIPS[1:], CPU, 0), BatchSpec("clips", 64, 30, 0, FRAMES))[2::3]
    rows = pans[:, :, :, 32, 0].int()
    assert int(rows.diff(dim=2).min()) >= 0
    assert int(rows.diff(dim=2).max()) <= 3  # a zoom of at most 2
    corner = rows[:, :, 0].diff(dim=1)
    assert int((corner.amax(1) - corner.amin(1)).max()) <= 2


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (BatchSpec("clips", 65, 2, 0, FRAMES), "No set of clips has 5 frames of 65 pixels; there are 4 of 7x32x32"),
        (BatchSpec("clips", 32, 2, 0, 17), "No set of clips has 17 frames"),
        (BatchSpec("images", 256, 2, 0, 1), "No set of images has 256 pixels"),
    ],
)
def test_what_no_set_holds_is_refused(spec: BatchSpec, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        loader().check(spec)
    with pytest.raises(TrainingError, match=words):
        one(loader(), spec)


def test_items_must_divide_among_ranks() -> None:
    with pytest.raises(TrainingError, match="5 images do not divide among 2 ranks"):
        loader(1, 2).check(BatchSpec("images", 32, 5, 0, 1))


@pytest.mark.parametrize("values", [("images", 0, 1, 0, 1), ("clips", 8, 1, -1, 1), ("images", 8, 1, 0, 2)])
def test_impossible_draws_are_refused(values: tuple[str, int, int, int, int]) -> None:
    with pytest.raises(TrainingError):
        BatchSpec(*values)  # type: ignore[arg-type]


def test_data_larger_than_the_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_loader, "free_memory", lambda device: 1000)
    with pytest.raises(TrainingError, match=r"The data takes .* GiB and cpu has 0.00 GiB free"):
        loader()
