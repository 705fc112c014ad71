"""Batches from data in the training device's memory: crops, flips, frames and pans over photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.tokenizer.patches import to_float, to_uint8
from training.data.loaders.batch import BatchSpec
from training.data.loaders.item_rng import epoch_order, item_uniforms
from training.distributed import Ranks
from training.errors import TrainingError

Array = NDArray[Any]
MIX_PERIOD_ITEMS = 3  # of three images one is a frame of a clip; of three clips one is a pan over a photograph
TOP, LEFT, FLIP, TIME, PAN = range(5)  # places of an item's random numbers; a pan takes seven


class DeviceLoader:
    """Batches of sets that fit in the device's memory.

    Of three images two are photographs and one is a frame of a clip; of three clips two are recorded and one pans and
    zooms over a photograph, which moves real texture. Every other square is cut at full resolution; the others show as
    much of the picture as whole multiples of the side cover, reduced by averaging. Half of all items are mirrored
    (section 4: horizontal flip is the only augmentation). A batch takes from the sets that are large enough for it.

    Args:
        photos: sets, each a sequence of shards, uint8 (N, 1, H, W, 3).
        clips: sets, each a sequence of shards, uint8 (N, T, H, W, 3).
        device: where the data is kept and batches are made.
        seed: of the crops.
        ranks: the processes that share every batch.

    Raises:
        TrainingError: the data does not fit in the device's memory.
    """

    def __init__(
        self,
        photos: Sequence[Sequence[Tensor]],
        clips: Sequence[Sequence[Tensor]],
        device: torch.device,
        seed: int,
        ranks: Ranks | None = None,
    ) -> None:
        _check_memory([*photos, *clips], device)
        self.photos = [_upload(shards, device) for shards in photos]
        self.clips = [_upload(shards, device) for shards in clips]
        self.device, self.seed, self.ranks = device, seed, ranks or Ranks()

    def check(self, spec: BatchSpec) -> None:
        """Refuse a batch for which no set is large or long enough, as `Loader.check` does."""
        spec.share(self.ranks.rank, self.ranks.world)
        sets = self.clips if spec.kind == "clips" else [*self.photos, *self.clips]
        if not _fit(sets, spec.side, spec.frames):
            held = ", ".join(f"{len(data)} of {_size(data)}" for data in sets) or "none"
            wanted = f"{spec.frames} frames of {spec.side} pixels" if spec.kind == "clips" else f"{spec.side} pixels"
            raise TrainingError(f"No set of {spec.kind} has {wanted}; there are {held}.")

    def stream(self, specs: Iterable[BatchSpec]) -> Iterator[Tensor]:
        """Yield this rank's share of each batch, as `Loader.stream` does."""
        for spec in specs:
            self.check(spec)
            yield self._batch(spec)

    def close(self) -> None:
        """Do nothing, for nothing works in the background."""

    def report(self) -> dict[str, Any]:
        """Return the number of items of every set."""
        return {"photos": [len(data) for data in self.photos], "clips": [len(data) for data in self.clips]}

    def describe(self) -> list[str]:
        """Return the number of items of each kind in a line."""
        return [f"data: {_count(self.photos):,} photos and {_count(self.clips):,} clips, in the device's memory"]

    def _batch(self, spec: BatchSpec) -> Tensor:
        share = spec.share(self.ranks.rank, self.ranks.world)
        numbers = item_uniforms(self.seed, spec.kind, share)
        photos, clips = _fit(self.photos, spec.side, 1), _fit(self.clips, spec.side, spec.frames)
        main, other = (photos, clips) if spec.kind == "images" else (clips, photos)
        from_other = np.arange(share.start, share.stop) % MIX_PERIOD_ITEMS == MIX_PERIOD_ITEMS - 1
        if not main or not other:
            from_other[:] = not main
        parts: list[tuple[Array, Tensor]] = []  # where in the batch, and the pixels
        for sets, where in ((main, np.flatnonzero(~from_other)), (other, np.flatnonzero(from_other))):
            if not len(where):
                continue
            turns = _turns(share, where, mixed=bool(main and other))
            for data, inside, items, turn in _assign(
                sets, epoch_order(self.seed, spec.kind, _count(sets), turns), turns
            ):
                rows = numbers[where[inside]]
                if spec.kind == "clips" and sets is photos:
                    parts.append((where[inside], self._pan(data, items, rows, spec)))
                else:
                    parts += self._squares(data, items, turn, rows, where[inside], spec)
        batch = torch.empty(len(share), spec.frames, spec.side, spec.side, 3, dtype=torch.uint8, device=self.device)
        for where, pixels in parts:
            batch.index_copy_(0, self._send(where), pixels)
        return batch

    def _squares(
        self, data: Tensor, items: Array, turn: Array, numbers: Array, where: Array, spec: BatchSpec
    ) -> list[tuple[Array, Tensor]]:
        """Cut near squares in even turns and far ones in odd turns."""
        farthest = min(data.shape[2:4]) // spec.side
        factor = np.where(turn % 2 == 0, 1, farthest)
        parts = []
        for times in sorted({1, farthest}):
            if len(chosen := np.flatnonzero(factor == times)):
                cut = self._cut(data, items[chosen], numbers[chosen], spec.side * times, spec.frames)
                parts.append((where[chosen], _reduce(cut, times)))
        return parts

    def _cut(self, data: Tensor, items: Array, numbers: Array, side: int, frames: int) -> Tensor:
        """Cut a square of each chosen item, mirrored or not: uint8 (N, frames, side, side, 3)."""
        length, height, width = data.shape[1:4]
        free = np.array([height - side + 1, width - side + 1, length - frames + 1])
        tops, lefts, starts = (numbers[:, [TOP, LEFT, TIME]] * free).astype(np.int64).T
        mirror = numbers[:, FLIP] < 0.5
        lefts, steps = np.where(mirror, lefts + side - 1, lefts), np.where(mirror, -1, 1)
        item, top, left, step, start = self._send(np.stack([items, tops, lefts, steps, starts])).unsqueeze(-1)
        line = torch.arange(side, device=self.device)
        times = start + torch.arange(frames, device=self.device)
        rows, columns = top + line, left + step * line
        # one gather: what it reads is named by an outer sum of four index vectors
        return data[item[:, :, None, None], times[:, :, None, None], rows[:, None, :, None], columns[:, None, None, :]]

    def _pan(self, photos: Tensor, items: Array, numbers: Array, spec: BatchSpec) -> Tensor:
        """Move a window in a straight line over each photograph, zooming as it goes: uint8 (N, T, side, side, 3)."""
        count, frames, side = len(items), spec.frames, spec.side
        extent = side / np.array(photos.shape[3:1:-1])  # half-size of a window over the picture's half-size: x, y
        pan = numbers[:, PAN : PAN + 7].reshape(count, 7, 1)
        scale = np.minimum(extent * (1 + pan[:, :2]), 1)  # (N, start and end, xy)
        centre = (2 * pan[:, 2:6].reshape(count, 2, 2) - 1) * (1 - scale)
        speed = pan[:, 6:]  # from still to the whole way
        time = np.linspace(0, 1, frames).reshape(1, frames, 1)
        scales = scale[:, :1] + time * (scale[:, 1:] - scale[:, :1])
        centres = centre[:, :1] + time * speed * (centre[:, 1:] - centre[:, :1])
        bound = 1 - scales
        centres = np.clip(centres, -bound, bound)
        scales[..., 0] *= np.where(numbers[:, FLIP] < 0.5, -1, 1)[:, None]
        windows = self._send(np.concatenate([centres, scales], axis=-1).astype(np.float32))
        line = (torch.arange(side, device=self.device) + 0.5) / side * 2 - 1
        x = (windows[..., :1] + windows[..., 2:3] * line).unsqueeze(2).expand(-1, -1, side, -1)
        y = (windows[..., 1:2] + windows[..., 3:] * line).unsqueeze(3).expand(-1, -1, -1, side)
        grid = torch.stack((x, y), dim=-1).flatten(1, 2)  # (N, T*side, side, 2)
        source = to_float(photos[self._send(items), 0], torch.float32).permute(0, 3, 1, 2)
        views = F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return to_uint8(views.unflatten(2, (frames, side)).permute(0, 2, 3, 4, 1))

    def _send(self, values: Array) -> Tensor:
        """Send values to the device, without waiting for it."""
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def _assign(sets: Sequence[Tensor], chosen: Array, turns: range) -> Iterator[tuple[Tensor, Array, Array, Array]]:
    """Split numbers that count over all sets: each set, which of the numbers are its own, its items, their turns."""
    first = 0
    for data in sets:
        inside = np.flatnonzero((chosen >= first) & (chosen < first + len(data)))
        if len(inside):
            yield data, inside, chosen[inside] - first, np.asarray(turns)[inside]
        first += len(data)


def _turns(share: range, where: Array, mixed: bool) -> range:
    """Count the items of their sort before those of the share: consecutive, as the mix is regular."""
    number = share.start + int(where[0])
    if mixed:
        cycle, place = divmod(number, MIX_PERIOD_ITEMS)
        number = cycle if place == MIX_PERIOD_ITEMS - 1 else number - cycle
    return range(number, number + len(where))


def _reduce(squares: Tensor, times: int) -> Tensor:
    """Average blocks of `times` by `times` pixels, rounded half up: uint8 (N, T, S, S, 3) to a smaller S."""
    if times == 1:
        return squares
    blocks = squares.unflatten(3, (-1, times)).unflatten(2, (-1, times))  # (N, T, s, times, s, times, 3)
    return ((blocks.sum((3, 5), dtype=torch.int32) + times**2 // 2) // times**2).to(torch.uint8)


def _fit(sets: Sequence[Tensor], side: int, frames: int) -> list[Tensor]:
    return [data for data in sets if data.shape[1] >= frames and min(data.shape[2:4]) >= side]


def _count(sets: Sequence[Tensor]) -> int:
    return sum(len(data) for data in sets)


def _size(data: Tensor) -> str:
    return "x".join(map(str, data.shape[1:4]))


def _upload(shards: Sequence[Tensor], device: torch.device) -> Tensor:
    """Copy all shards to one tensor on the device; the shards are read one by one."""
    whole = torch.empty(_count(shards), *shards[0].shape[1:], dtype=torch.uint8, device=device)
    for part, shard in zip(whole.split([len(shard) for shard in shards]), shards, strict=True):
        part.copy_(shard)
    return whole


def _check_memory(sets: Sequence[Sequence[Tensor]], device: torch.device) -> None:
    free = free_memory(device)
    needed = sum(shard.nbytes for shards in sets for shard in shards)
    if free is not None and needed > free:
        raise TrainingError(
            f"The data takes {needed / 2**30:.2f} GiB and {device} has {free / 2**30:.2f} GiB free: "
            "leave sets out, or train from files."
        )


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a CUDA device has free; None for other devices."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
