"""Metrics over sets and pairs, with stand-ins for their networks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.evaluation.set_metrics import LiteMetrics, PairedMetric, rfid, rfvd
from training.evaluation.suite import MetricSuite, NetworkPaths
from training.networks.efficientnet import HEAD
from training.networks.i3d import InceptionI3D


class Stub(nn.Module):
    """A network's double: mean and spread of each colour."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2).float() if x.dim() == 4 else x.flatten(2)
        return torch.cat([flat.mean(dim=2), flat.std(dim=2)], dim=1)


def clips(count: int, frames: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (count, frames, 12, 12, 3), dtype=torch.uint8, generator=torch.manual_seed(seed))


@pytest.mark.parametrize("kind", [rfid, rfvd])
def test_a_distance_finds_nothing_between_equal_sets_and_more_the_more_they_differ(kind: type) -> None:
    original = clips(8, 9, 0)
    values = []
    for damage in (0, 20, 60):
        metric = kind(Stub())
        restored = (original.int() - damage).clamp(0, 255).to(torch.uint8)
        for part in range(0, 8, 3):  # uneven batches
            metric.update(original[part : part + 3], restored[part : part + 3])
        (value,) = metric.compute()
        assert value.name == ("rFID" if kind is rfid else "rFVD")
        assert value.half_split is not None
        assert value.half_split > 0
        values.append(value.value)
    assert values[0] == pytest.approx(0, abs=1e-9)
    assert values[0] < values[1] < values[2]


def test_fvd_lite_sees_clips_that_stand_still() -> None:
    """Each frame is one of the originals', so that a distance of frames alone sees much less than one of motion."""

    class Wide(Stub):
        def forward(self, x: Tensor) -> Tensor:
            narrow = super().forward(x)
            return narrow.repeat(1, HEAD // narrow.shape[1] + 1)[:, :HEAD]

    moving = clips(6, 9, 1)
    frozen = moving[:, :1].expand_as(moving)
    values = {}
    for name, restored in (("same", moving), ("frozen", frozen)):
        metric = LiteMetrics(Wide(), frames=9)  # type: ignore[arg-type]
        metric.update(moving, restored)
        values[name] = {found.name: found.value for found in metric.compute()}
    assert values["same"]["FVD-lite"] == pytest.approx(0, abs=1e-6)
    assert values["frozen"]["FVD-lite"] > 20 * values["frozen"]["FID-lite, 64-d"]
    assert set(values["same"]) == {"FID-lite", "FID-lite, 64-d", "KID-lite", "FVD-lite"}
    images = LiteMetrics(Wide(), frames=1)  # type: ignore[arg-type]
    images.update(moving[:, :1], moving[:, :1])
    assert "FVD-lite" not in {metric.name for metric in images.compute()}


def test_fewer_than_two_items_have_no_distance_of_distributions() -> None:
    metric = rfvd(Stub())  # type: ignore[arg-type]
    metric.update(clips(1, 9, 0), clips(1, 9, 0))
    assert metric.compute() == []


def test_a_paired_distance_is_a_mean_over_frames_and_unrelated_pictures_lie_further_apart() -> None:
    class Apart(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a - b).abs().mean(dim=(1, 2, 3))

    original = clips(6, 3, 2)
    restored = (original.int() + 5).clamp(0, 255).to(torch.uint8)
    metric = PairedMetric("LPIPS", Apart())  # type: ignore[arg-type]
    metric.update(original[:4], restored[:4])
    metric.update(original[4:], restored[4:])
    (value,) = metric.compute()
    assert value.value == pytest.approx(float((original.double() - restored.double()).abs().mean() / 255), rel=1e-5)
    assert value.half_split is not None
    assert value.half_split > 5 * value.value


def test_a_real_i3d_is_asked_only_of_clips_that_are_long_enough(tmp_path: Path) -> None:
    torch.manual_seed(3)
    torch.save(InceptionI3D().state_dict(), tmp_path / "i3d.pt")
    suite = MetricSuite(NetworkPaths(tmp_path, i3d=tmp_path / "i3d.pt"), torch.device("cpu"))
    assert [type(metric) for metric in suite.metrics(frames=8)] == []
    (metric,) = suite.metrics(frames=9)
    metric.update(clips(2, 9, 0), clips(2, 9, 1))
    (value,) = metric.compute()
    assert value.name == "rFVD"
    assert math.isfinite(value.value)
