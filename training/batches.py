"""Batches from data that lies in the training device's memory: crops, flips, frames and pans over photographs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.pixels import to_float
from training.errors import TrainingError


class Batches:
    """Draws batches; its random state can be saved and set, so that a run resumes where it was.

    Args:
        photos: uint8 (N, H, W, 3), with H, W at least twice `side`.
        clips: uint8 (N, T, side or more, side or more, 3).
        side: pixels of a batch.
        device: where the data is kept and batches are made.
        seed: of the draws.
    """

    def __init__(self, photos: Tensor, clips: Tensor, side: int, device: torch.device, seed: int) -> None:
        for name, data, least in (("photographs", photos, 2 * side), ("clips", clips, side)):
            if min(data.shape[-3:-1]) < least:
                raise TrainingError(f"{name} of {tuple(data.shape[-3:-1])} pixels are too small for a side of {least}")
        self.photos, self.clips = photos.to(device), clips.to(device)
        self.side, self.device = side, device
        self.generator = torch.Generator().manual_seed(seed)

    def state(self) -> Tensor:
        """The random state."""
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Go on from a saved random state."""
        self.generator.set_state(state)

    def images(self, count: int, large: bool = False) -> Tensor:
        """Float images (count, 1, s, s, 3) in [-0.5, 0.5], s twice the side if `large`.

        Two of three are photographs, half of them cropped and half of them seen whole; the rest are frames of clips.
        """
        side = 2 * self.side if large else self.side
        from_clips = 0 if large else count // 3
        close = (count - from_clips + 1) // 2
        far = count - from_clips - close
        parts = [self._crops(self._photos(close), side)]
        if far:
            square = self._crops(self._photos(far), 2 * self.side)
            whole = F.interpolate(square.permute(0, 3, 1, 2), size=(side, side), mode="area").permute(0, 2, 3, 1)
            parts.append(whole)
        if from_clips:
            clips = self.clips[self._draw(len(self.clips), from_clips)]
            frames = self._draw(clips.shape[1], from_clips)
            parts.append(self._crops(clips[torch.arange(from_clips), frames], side))
        return self._flip(torch.cat(parts).unsqueeze(1))

    def videos(self, count: int) -> Tensor:
        """Float clips (count, T, side, side, 3) in [-0.5, 0.5].

        Two of three are recorded; the rest are pans and zooms over photographs, which move real texture.
        """
        pans = count // 3
        clips = self.clips[self._draw(len(self.clips), count - pans)]
        parts = [self._crops(clips, self.side)]
        if pans:
            parts.append(self._pan(self._photos(pans), clips.shape[1]))
        return self._flip(torch.cat(parts))

    def _draw(self, high: int, count: int) -> Tensor:
        return torch.randint(high, (count,), generator=self.generator).to(self.device)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator).to(self.device)

    def _photos(self, count: int) -> Tensor:
        return self.photos[self._draw(len(self.photos), count)]

    def _crops(self, pixels: Tensor, side: int) -> Tensor:
        """A random square of each (N, ..., H, W, 3), as floats."""
        height, width = pixels.shape[-3:-1]
        tops = torch.randint(height - side + 1, (len(pixels),), generator=self.generator).tolist()
        lefts = torch.randint(width - side + 1, (len(pixels),), generator=self.generator).tolist()
        squares = [
            item[..., top : top + side, left : left + side, :]
            for item, top, left in zip(pixels, tops, lefts, strict=True)
        ]
        return to_float(torch.stack(squares), torch.float32)

    def _flip(self, pixels: Tensor) -> Tensor:
        """Mirror half of the items (section 4: horizontal flip is the only augmentation)."""
        mirror = (self._uniform(len(pixels)) < 0.5).view(-1, 1, 1, 1, 1)
        return torch.where(mirror, pixels.flip(3), pixels)

    def _pan(self, photos: Tensor, frames: int) -> Tensor:
        """Move a window in a straight line over each photograph, zooming as it goes: (N, T, side, side, 3)."""
        count, height = len(photos), photos.shape[1]
        extent = self.side / height  # half-size of a window, in units of the picture's half-size
        scale = extent * (1 + self._uniform(count, 2, 1))  # at the start and at the end
        centre = (2 * self._uniform(count, 2, 2) - 1) * (1 - scale)
        speed = self._uniform(count, 1, 1)  # from still to the whole way
        end = centre[:, :1] + speed * (centre[:, 1:] - centre[:, :1])
        time = torch.linspace(0, 1, frames, device=self.device).view(1, frames, 1)
        scales = scale[:, :1] + time * (scale[:, 1:] - scale[:, :1])
        centres = centre[:, :1] + time * (end - centre[:, :1])
        bound = (1 - scales).clamp(min=0)
        centres = centres.clamp(-bound, bound)
        line = (torch.arange(self.side, device=self.device) + 0.5) / self.side * 2 - 1
        x = (centres[..., :1] + scales * line).unsqueeze(2).expand(-1, -1, self.side, -1)
        y = (centres[..., 1:] + scales * line).unsqueeze(3).expand(-1, -1, -1, self.side)
        grid = torch.stack((x, y), dim=-1).flatten(1, 2)  # (N, T*side, side, 2)
        source = to_float(photos, torch.float32).permute(0, 3, 1, 2)
        views = F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return views.unflatten(2, (frames, self.side)).permute(0, 2, 3, 4, 1)
