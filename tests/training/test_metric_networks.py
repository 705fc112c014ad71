"""The judging networks by published sizes and names, pinned outputs and preprocessing, and weights that are refused."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from training.errors import TrainingError
from training.evaluation.features import motion
from training.evaluation.preprocessing import I3D, INCEPTION, LITE, Preprocessing
from training.networks.efficientnet import EfficientNetLite0
from training.networks.i3d import InceptionI3D
from training.networks.inception import InceptionV3
from training.networks.padding import pad_same
from training.networks.weights import load_weights

# torchvision says 27,161,264 parameters of its Inception-v3; the metric's has no auxiliary head and 8 classes more
AUXILIARY = (768 * 128 + 2 * 128) + (128 * 768 * 25 + 2 * 768) + (768 + 1) * 1000


def filled(network: nn.Module) -> nn.Module:
    """The network with weights that a formula gives, of the size that keeps what passes through alive."""
    for number, (name, values) in enumerate(network.state_dict().items()):
        if not values.is_floating_point():
            continue
        steps = torch.arange(values.numel(), dtype=torch.float64)
        wave = torch.sin(steps * (1 + 0.37 * ((number * 7) % 11)) + number)
        if name.endswith("running_var"):
            wave = 1 + 0.5 * wave
        elif values.dim() == 1:
            wave = 0.1 * wave if name.endswith(("bias", "running_mean")) else 1 + 0.3 * wave
        else:
            wave = wave * math.sqrt(4 / values[0].numel())
        values.copy_(wave.view_as(values))
    return network.eval()


def names(network: nn.Module) -> str:
    """A digest of parameter names and shapes, batch counters left out."""
    lines = sorted(
        f"{name} {tuple(value.shape)}"
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("network", "parameters", "digest"),
    [
        (EfficientNetLite0, 4_652_008, "e8b5afc66056b920"),  # published as 4.7 M; names of the packaged weights
        (InceptionV3, 27_161_264 - AUXILIARY + 8 * 2049, "d84f693f2abd7fea"),  # names of the metric's usual port
        (InceptionI3D, 12_697_264, "a8c1201808a09152"),  # 12.7 M; names of the ports that evaluators load
    ],
)
def test_networks_have_the_published_sizes_and_names(network: type[nn.Module], parameters: int, digest: str) -> None:
    made = network()
    assert sum(parameter.numel() for parameter in made.parameters()) == parameters
    assert names(made) == digest


@pytest.mark.parametrize(
    ("network", "example"),
    [
        (EfficientNetLite0, "_blocks.15._depthwise_conv.weight"),
        (InceptionV3, "Mixed_7c.branch3x3dbl_3b.conv.weight"),
        (InceptionI3D, "Mixed_3b.b1b.conv3d.weight"),
    ],
)
def test_some_names_in_full(network: type[nn.Module], example: str) -> None:
    assert example in network().state_dict()


@pytest.mark.parametrize(
    ("network", "shape", "first", "mean", "deviation"),
    [
        (EfficientNetLite0, (1, 3, 224, 224), (0.073603, 0.000425, 0.310542, 0.0), 0.063859, 0.074162),
        (InceptionV3, (1, 3, 299, 299), (0.0, 0.304366, 0.0, 0.161592), 0.071933, 0.120411),
        (InceptionI3D, (1, 3, 9, 224, 224), (0.407370, 0.824329, 1.167094, 0.950142), 0.008606, 0.765269),
    ],
)
@torch.inference_mode()
def test_networks_compute_what_they_did_when_they_equalled_other_implementations(
    network: type[nn.Module], shape: tuple[int, ...], first: tuple[float, ...], mean: float, deviation: float
) -> None:
    """Recorded when each agreed bit for bit with an independent implementation on equal weights."""
    wave = torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.013).view(shape).float()
    features = filled(network())(wave)[0]
    assert features[:4].tolist() == pytest.approx(first, abs=2e-4)
    assert (float(features.mean()), float(features.std())) == pytest.approx((mean, deviation), abs=2e-4)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [(224, 3, 2, (0, 1)), (7, 3, 2, (1, 1)), (5, 3, 1, (1, 1)), (8, 2, 2, (0, 0)), (9, 7, 2, (3, 3))],
)
def test_padding_leaves_one_position_for_each_stride(
    size: int, kernel: int, stride: int, expected: tuple[int, int]
) -> None:
    padded = pad_same(torch.ones(1, size), (kernel,), (stride,))[0]
    zeros = (padded == 0).nonzero().flatten().tolist()
    assert (sum(z < kernel for z in zeros), sum(z >= kernel for z in zeros)) == expected
    assert (len(padded) - kernel) // stride + 1 == math.ceil(size / stride)


def test_preprocessing_is_what_it_says() -> None:
    said = "RGB in [0, 255], bilinear to 299x299 (corners not aligned, without antialiasing), (value - 127.5) / 127.5"
    assert str(INCEPTION) == said
    assert (I3D.side, I3D.antialias, I3D.offset, I3D.scale) == (224, False, 127.5, 127.5)
    assert (LITE.side, LITE.antialias, LITE.offset, LITE.scale) == (224, True, 127.0, 128.0)


def test_preprocessing_by_hand() -> None:
    """Two pixels to four: corners are not aligned, so the outer ones keep their values; red stays the first channel."""
    frames = torch.tensor([[[[0, 255, 10], [100, 255, 10]], [[0, 255, 10], [100, 255, 10]]]], dtype=torch.uint8)
    made = Preprocessing(4, antialias=False, offset=127.5, scale=127.5)(frames)
    assert made.shape == (1, 3, 4, 4)
    expected = (torch.tensor([0.0, 25.0, 75.0, 100.0]) - 127.5) / 127.5
    torch.testing.assert_close(made[0, 0], expected.expand(4, 4))
    torch.testing.assert_close(made[0, 1], torch.ones(4, 4))


@pytest.mark.parametrize(("antialias", "values"), [(False, (255.0, 255.0)), (True, (127.5, 127.5))])
def test_only_antialiasing_sees_every_pixel_of_a_picture_that_shrinks(
    antialias: bool, values: tuple[float, ...]
) -> None:
    """Columns in turn black, white, white, black: shrinking to a quarter looks at the middle two, or at all."""
    columns = torch.tensor([0, 255, 255, 0] * 4, dtype=torch.uint8)
    frames = columns[None, None, :, None].expand(1, 16, 16, 3)
    made = Preprocessing(4, antialias, 0.0, 1.0)(frames)
    assert tuple(made[0, 0, 0, 1:3].tolist()) == pytest.approx(values, abs=1)


def test_pictures_of_the_right_size_are_only_scaled() -> None:
    frames = torch.arange(224 * 224 * 3, dtype=torch.int64).view(1, 224, 224, 3).remainder(256).to(torch.uint8)
    torch.testing.assert_close(LITE(frames), (frames.permute(0, 3, 1, 2).float() - 127) / 128)


def test_motion_is_twice_the_difference_and_still_clips_have_none() -> None:
    clips = torch.zeros(1, 6, 2, 2, 3, dtype=torch.uint8)
    clips[0, 3] = 50
    clips[0, 4] = 200
    assert motion(clips, 1)[0, :, 0, 0, 0].tolist() == [0, 0, 100, 255, 255]
    assert motion(clips, 4)[0, :, 0, 0, 0].tolist() == [255, 0]
    still = torch.full((1, 6, 2, 2, 3), 77, dtype=torch.uint8)
    assert not motion(still, 1).any()


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 2), nn.BatchNorm1d(2)


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Small().state_dict()


@pytest.mark.parametrize("suffix", ["pth", "pt", "safetensors"])
def test_weights_come_from_either_kind_of_file(suffix: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file(halves, path) if suffix == "safetensors" else torch.save(halves, path)
    loaded = load_weights(Small(), path)
    assert not loaded.training
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.layer.weight, state["layer.weight"].half().float())


def test_files_without_batch_counters_load(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({name: value for name, value in state.items() if "num_batches" not in name}, path)
    load_weights(Small(), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer.bias"), "lacks layer.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "Small has not: extra"),
        (lambda state: state.update({"layer.bias": torch.zeros(3)}), r"layer.bias has shape \(3,\), Small has \(2,\)"),
        (lambda state: state["layer.weight"].fill_(math.nan), "layer.weight holds values that are not finite"),
        (lambda state: state.update(more=[1, 2]), "does not hold a dictionary of named tensors"),
    ],
)
def test_weights_of_another_network_are_refused(
    change: object, message: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    changed = dict(state)
    change(changed)  # type: ignore[operator]
    torch.save(changed, tmp_path / "weights.pth")
    with pytest.raises(TrainingError, match=message):
        load_weights(Small(), tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 half a file", b"\x80\x02cposix\nsystem\n."])
def test_what_is_no_weights_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingError, match=name):
        load_weights(Small(), tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="There is no weights file"):
        load_weights(Small(), tmp_path / "nothing.pth")


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"layer.weight": Trap()}, tmp_path / "weights.pth")
    with pytest.raises(TrainingError, match=r"weights\.pth"):
        load_weights(Small(), tmp_path / "weights.pth")
    assert not (tmp_path / "ran").exists()
