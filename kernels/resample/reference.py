"""The definition of resampling along one axis, on any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

WEIGHT_BITS = 22  # of a weight behind the point, as in `media.taps`


class ResampleArgs(NamedTuple):
    """The arguments of the operator.

    A picture's values form lines along the resampled axis, in groups of `inner` lines whose values are neighbours.

    Args:
        values (Tensor): shape (N,), uint8, the values of all pictures.
        start (Tensor): shape (B,), int64, the first value of each picture.
        step (Tensor): shape (B,), int32, values from one source to the next along the axis.
        outer (Tensor): shape (B,), int32, values from one group of lines to the next.
        lines (Tensor): shape (B,), int32, lines of each picture, at most `most_lines`.
        sources (Tensor): shape (B,), int32, values of each line.
        table (Tensor): shape (B,), int32, the row of `first` and `weights` for each picture.
        first (Tensor): shape (G, n), int32, the first source of each output.
        weights (Tensor): shape (G, K, n), int32.
        inner: lines of a group.
        most_lines: lines of the result.
        along_last: the result is (B, most_lines / inner, n, inner), or else (B, n, most_lines).
    """

    values: Tensor
    start: Tensor
    step: Tensor
    outer: Tensor
    lines: Tensor
    sources: Tensor
    table: Tensor
    first: Tensor
    weights: Tensor
    inner: int
    most_lines: int
    along_last: bool


def result_shape(args: ResampleArgs) -> tuple[int, ...]:
    """Return the shape of the result."""
    batch, count = len(args.start), args.first.shape[1]
    if args.along_last:
        return batch, args.most_lines // args.inner, count, args.inner
    return batch, count, args.most_lines


def resample(args: ResampleArgs) -> Tensor:
    """Return clip((2^21 + sum over k of weights[k] values[first + k]) >> 22); lines that a picture lacks are 0.

    Returns:
        Tensor: uint8, of `result_shape`.
    """
    values, count = args.values, args.first.shape[1]
    line = torch.arange(args.most_lines, device=values.device)
    results = []
    for item, table in enumerate(args.table.tolist()):
        place = args.start[item] + line // args.inner * args.outer[item] + line % args.inner
        sums = torch.full((args.most_lines, count), 1 << WEIGHT_BITS - 1, dtype=torch.int64, device=values.device)
        for first, weights in ((args.first[table] + k, weights) for k, weights in enumerate(args.weights[table])):
            source = first.clamp(max=int(args.sources[item]) - 1).long()
            where = (place[:, None] + source * args.step[item]).clamp(0, len(values) - 1)
            sums += values[where].long() * weights
        picture = (sums >> WEIGHT_BITS).clamp(0, 255)
        picture[int(args.lines[item]) :] = 0
        results.append(picture.to(torch.uint8))
    stacked = torch.stack(results)
    if args.along_last:
        grouped = stacked.unflatten(1, (-1, args.inner)).transpose(2, 3)
        return grouped.contiguous()
    return stacked.transpose(1, 2).contiguous()
