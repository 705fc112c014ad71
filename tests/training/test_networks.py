"""Discriminators, the VGG16 trunk and LPIPS: laws, sizes, and weights that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from training.errors import TrainingError
from training.networks.lpips import ChannelWeights, FeatureDistance, load_lpips, load_perceptual
from training.networks.vgg import CHANNELS, LPIPS, PACKAGED, VGG16
from training.tokenizer import losses
from training.tokenizer.discriminators import PatchDiscriminator


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """float (count, side, side, 3) in [-0.5, 0.5]: coloured blocks, so with edges to lose and flats to disturb."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.rand(count, 3, side // 8, side // 8, generator=generator) - 0.5
    return F.interpolate(blocks, scale_factor=8, mode="nearest").permute(0, 2, 3, 1)


def blurred(x: Tensor, radius: int) -> Tensor:
    y = F.pad(x.permute(0, 3, 1, 2), [radius] * 4, mode="reflect")
    return F.avg_pool2d(y, 2 * radius + 1, stride=1).permute(0, 2, 3, 1)


def random_trunk(seed: int = 0) -> VGG16:
    """Random weights that keep the size of what passes through, as trained ones do."""
    torch.manual_seed(seed)
    trunk = VGG16(LPIPS)
    for layer in trunk.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
    return trunk


@pytest.fixture(scope="module")
def trunk() -> VGG16:
    return random_trunk()


@pytest.fixture(scope="module", params=["vgg", "lpips"])
def perceptual(request: pytest.FixtureRequest, trunk: VGG16) -> FeatureDistance:
    generator = torch.Generator().manual_seed(1)
    heads = [torch.rand(channels, generator=generator) for channels in CHANNELS] if request.param == "lpips" else None
    return FeatureDistance(trunk, heads)


# Discriminators


@pytest.mark.parametrize("shape", [(3, 3, 32, 48), (2, 3, 5, 32, 32), (2, 3, 1, 24, 24)])
def test_a_batch_is_judged_as_its_items_are(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(2 if len(shape) == 4 else 3, channels=32)
    pixels = torch.rand(shape) - 0.5
    pixels[0] *= 0.01  # an item unlike the others would shift a statistic of the batch
    whole = discriminator(pixels)
    alone = [discriminator(item[None]) for item in pixels]
    torch.testing.assert_close(whole.logits, torch.cat([one.logits for one in alone]), atol=1e-5, rtol=1e-4)
    for layer, features in enumerate(whole.features):
        torch.testing.assert_close(features, torch.cat([one.features[layer] for one in alone]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("k", [0, 1, 4])
def test_clips_of_1_plus_4k_frames_are_judged_at_the_latents_frames(k: int) -> None:
    discriminator = PatchDiscriminator(3, channels=32, layers=2)
    output = discriminator(torch.zeros(1, 3, 1 + 4 * k, 16, 16))
    assert output.logits.shape == (1, 1, 1 + k, 2, 2)
    assert [features.shape[2] for features in output.features] == [1 + 2 * k, 1 + k, 1 + k]


def test_every_pixel_and_frame_is_judged() -> None:
    """No stride steps over a border: the gradient reaches the whole clip."""
    torch.manual_seed(0)
    pixels = (torch.rand(1, 3, 9, 32, 32) - 0.5).requires_grad_()
    losses.hinge_generator(PatchDiscriminator(3, channels=32)(pixels).logits).backward()
    assert pixels.grad is not None
    reached = pixels.grad.abs().sum(1)[0]
    assert (reached[:, 1:-1, 1:-1] > 0).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_of_a_discriminator_equal_differences(dims: Literal[2, 3]) -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(dims, channels=32, layers=1).double()
    shape = (1, 3, 8, 8) if dims == 2 else (1, 3, 3, 8, 8)
    point, way = torch.rand(shape, dtype=torch.float64) - 0.5, torch.randn(shape, dtype=torch.float64)
    point.requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(point).logits.square().mean(), point)
    with torch.no_grad():
        ahead, behind = (discriminator(point + step * way).logits.square().mean() for step in (1e-6, -1e-6))
    torch.testing.assert_close((gradient * way).sum(), (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-8)


def test_a_discriminator_learns_to_tell_sharp_from_blurred() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(2, channels=32, layers=2)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    for step in range(25):
        real = pictures(8, 32, seed=step)
        logits = discriminator(torch.cat((real, blurred(real, 2))).permute(0, 3, 1, 2)).logits
        loss = losses.hinge_discriminator(*logits.chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real = pictures(16, 32, seed=1000)
    with torch.no_grad():
        sharp, soft = (discriminator(x.permute(0, 3, 1, 2)).logits.mean((1, 2, 3)) for x in (real, blurred(real, 2)))
    assert (sharp > soft).all()


@pytest.mark.parametrize(
    ("dims", "shape"), [(2, (1, 3, 16, 32)), (2, (1, 1, 32, 32)), (2, (1, 3, 5, 32, 32)), (3, (1, 3, 32, 32))]
)
def test_inputs_no_discriminator_takes(dims: Literal[2, 3], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=str(tuple(shape)).replace("(", r"\(").replace(")", r"\)")):
        PatchDiscriminator(dims, channels=32)(torch.zeros(shape))


@pytest.mark.parametrize(("channels", "layers"), [(48, 3), (0, 3), (32, 0)])
def test_discriminators_that_do_not_exist(channels: int, layers: int) -> None:
    with pytest.raises(ValueError, match=f"channels={channels}.*layers={layers}"):
        PatchDiscriminator(2, channels, layers)


# The trunk and the distance


def test_published_sizes(trunk: VGG16) -> None:
    assert parameters(trunk) == 14_714_688
    assert parameters(ChannelWeights()) == 1_472
    assert [name for name in trunk.state_dict() if name.endswith("weight")] == [
        f"features.{number}.weight" for number in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    ]


def test_features_are_taken_after_each_blocks_last_rectifier(trunk: VGG16) -> None:
    taps = trunk(pictures(2, 32))
    assert [tuple(tap.shape) for tap in taps] == [
        (2, channels, 32 >> block, 32 >> block) for block, channels in enumerate(CHANNELS)
    ]
    assert all((tap >= 0).all() for tap in taps)


def test_scalings_are_those_of_the_weights() -> None:
    """Levels of 0 to 255 less the mean for the packaged trunk; for LPIPS its own shift and scale of [-1, 1]."""
    pixels = torch.rand(1, 4, 4, 3) - 0.5
    x = pixels.permute(0, 3, 1, 2)
    caffe = 255 * (x + 0.5) - torch.tensor([122.67892, 116.66877, 104.00699]).view(3, 1, 1)
    lpips = (2 * x - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(
        3, 1, 1
    )
    for scaling, expected in ((PACKAGED, caffe), (LPIPS, lpips)):
        network = VGG16(scaling)
        torch.testing.assert_close((x - network.mean) / network.std, expected, atol=1e-4, rtol=1e-5)


def test_the_distance_is_lpips_by_its_definition(trunk: VGG16) -> None:
    """Written out: unit channels at each position, squared difference, heads, mean over positions, sum of blocks."""
    heads = [torch.rand(channels) for channels in CHANNELS]
    out, pixels = pictures(2, 16, seed=1), pictures(2, 16, seed=2)
    expected = torch.zeros(2)
    for a, b, head in zip(trunk(out), trunk(pixels), heads, strict=True):
        for item in range(2):
            columns = [x[item].flatten(1).unbind(1) for x in (a, b)]
            each = [
                (head * (p / p.norm().clamp_min(1e-10) - q / q.norm().clamp_min(1e-10)) ** 2).sum()
                for p, q in zip(*columns, strict=True)
            ]
            expected[item] += torch.stack(each).mean()
    torch.testing.assert_close(FeatureDistance(trunk, heads)(out, pixels), expected, atol=1e-5, rtol=1e-4)


def test_equal_pictures_are_at_distance_0_and_pull_nowhere(perceptual: FeatureDistance) -> None:
    pixels = pictures(2, 32)
    out = pixels.clone().requires_grad_()
    distances = perceptual(out, pixels)
    distances.sum().backward()
    assert not distances.any()
    assert out.grad is not None
    assert not out.grad.any()


def test_the_distance_is_symmetric(perceptual: FeatureDistance) -> None:
    a, b = pictures(2, 32, seed=1), pictures(2, 32, seed=2)
    torch.testing.assert_close(perceptual(a, b), perceptual(b, a))
    assert (perceptual(a, b) > 0).all()


def test_the_distance_grows_with_blur_and_noise(perceptual: FeatureDistance) -> None:
    pixels = pictures(4, 32)
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    for damaged in (
        [blurred(pixels, radius) for radius in (1, 2, 4)],
        [pixels + sigma * noise for sigma in (0.01, 0.03, 0.1)],
    ):
        distances = [perceptual(x, pixels).mean().item() for x in damaged]
        assert 0 < distances[0] < distances[1] < distances[2]


def test_distances_of_a_batch_are_those_of_its_items(perceptual: FeatureDistance) -> None:
    a, b = pictures(3, 32, seed=1), pictures(3, 32, seed=2)
    alone = torch.cat([perceptual(a[i : i + 1], b[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(perceptual(a, b), alone, atol=1e-5, rtol=1e-5)


def test_only_the_reconstruction_receives_a_gradient(perceptual: FeatureDistance) -> None:
    out, pixels = pictures(1, 16, seed=1).requires_grad_(), pictures(1, 16, seed=2).requires_grad_()
    perceptual(out, pixels).sum().backward()
    assert out.grad is not None
    assert out.grad.any()
    assert pixels.grad is None
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in perceptual.parameters())


def test_gradients_of_the_distance_equal_differences() -> None:
    distance = FeatureDistance(random_trunk(3), [torch.rand(channels) for channels in CHANNELS]).double()
    generator = torch.Generator().manual_seed(0)  # noise: pooling has no derivative where neighbours are equal
    out, pixels, way = (torch.randn(1, 16, 16, 3, dtype=torch.float64, generator=generator) for _ in range(3))
    out.requires_grad_()
    (gradient,) = torch.autograd.grad(distance(out, pixels).sum(), out)
    with torch.no_grad():
        ahead, behind = (distance(out + step * way, pixels).sum() for step in (1e-7, -1e-7))
    torch.testing.assert_close((gradient * way).sum(), (ahead - behind) / 2e-7, rtol=1e-4, atol=1e-8)


def test_autocast_runs_the_trunk_in_half_precision_and_the_distance_in_full(perceptual: FeatureDistance) -> None:
    a, b = pictures(2, 32, seed=1), pictures(2, 32, seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        assert perceptual.trunk(a)[0].dtype == torch.bfloat16
        distances = perceptual(a, b)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances, perceptual(a, b), rtol=0.02, atol=0)


@pytest.mark.parametrize("learned", [False, True])
def test_networks_never_look_at_values(learned: bool) -> None:
    """On the meta device there are none: reading one, a shape that depends on one, a tensor of elsewhere all raise."""
    with torch.device("meta"):
        trunk, heads = VGG16(LPIPS), [torch.empty(channels) for channels in CHANNELS]
        discriminators = [PatchDiscriminator(2, 32, 2), PatchDiscriminator(3, 32, 2)]
        out, pixels = (torch.empty(2, 16, 16, 3) for _ in range(2))
    out.requires_grad_()
    total = FeatureDistance(trunk, heads if learned else None)(out, pixels).mean()
    for discriminator, x in zip(discriminators, (out.permute(0, 3, 1, 2), out.permute(3, 0, 1, 2)[None]), strict=True):
        total = total + losses.hinge_generator(discriminator(x).logits)
    total.backward()
    assert out.grad is not None
    assert out.grad.shape == out.shape


# Weights


@pytest.fixture(scope="module")
def published(trunk: VGG16) -> dict[str, Tensor]:
    """Tensors under the published names: torchvision's trunk (in half precision, to be quick) and LPIPS's heads."""
    torch.manual_seed(5)
    return {name: tensor.half().contiguous() for name, tensor in trunk.state_dict().items()} | {
        name: tensor.abs() for name, tensor in ChannelWeights().state_dict().items()
    }


def test_names_of_the_published_heads() -> None:
    assert {name: tuple(tensor.shape) for name, tensor in ChannelWeights().state_dict().items()} == {
        "lin0.model.1.weight": (1, 64, 1, 1),
        "lin1.model.1.weight": (1, 128, 1, 1),
        "lin2.model.1.weight": (1, 256, 1, 1),
        "lin3.model.1.weight": (1, 512, 1, 1),
        "lin4.model.1.weight": (1, 512, 1, 1),
    }


def test_one_merged_file_and_a_folder_of_two_give_the_same_lpips(published: dict[str, Tensor], tmp_path: Path) -> None:
    heads = {name: tensor for name, tensor in published.items() if name.startswith("lin")}
    body = {name: tensor for name, tensor in published.items() if name not in heads}
    save_file(published, tmp_path / "merged.safetensors")
    folder = tmp_path / "two"
    folder.mkdir()
    torch.save(heads, folder / "vgg.pth")
    torch.save(body | {"classifier.6.bias": torch.zeros(1000)}, folder / "vgg16-397923af.pth")
    a, b = pictures(1, 16, seed=1), pictures(1, 16, seed=2)
    merged, two = (load_perceptual("lpips", path) for path in (tmp_path / "merged.safetensors", folder))
    assert merged is not None
    assert two is not None
    expected = VGG16(LPIPS)
    expected.load_state_dict({name: tensor.float() for name, tensor in body.items()})
    by_hand = FeatureDistance(expected, [tensor.flatten() for tensor in heads.values()])
    assert merged(a, b) == two(a, b) == by_hand(a, b)
    torch.save(heads, folder / "again.pth")
    with pytest.raises(TrainingError, match=r"lin0\.model\.1\.weight in two files"):
        load_lpips(folder)


def refused(state: dict[str, Tensor], folder: Path) -> str:
    save_file(state, folder / "lpips.safetensors")
    with pytest.raises(TrainingError) as caught:
        load_lpips(folder / "lpips.safetensors")
    return str(caught.value)


def test_weights_of_another_network_are_refused(published: dict[str, Tensor], tmp_path: Path) -> None:
    without = {name: tensor for name, tensor in published.items() if name != "features.28.bias"}
    assert "lacks features.28.bias" in refused(without, tmp_path)
    assert "lacks lin3.model.1.weight" in refused(
        {name: tensor for name, tensor in published.items() if not name.startswith("lin3")}, tmp_path
    )
    assert "features.30.weight" in refused(published | {"features.30.weight": torch.zeros(1)}, tmp_path)
    wrong = published | {"lin2.model.1.weight": torch.zeros(1, 255, 1, 1)}
    assert "(1, 255, 1, 1)" in refused(wrong, tmp_path)
    spoilt = published | {"lin4.model.1.weight": torch.full((1, 512, 1, 1), torch.nan)}
    assert "not finite" in refused(spoilt, tmp_path)


class Program:
    """Create a marker file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_a_program_in_the_place_of_weights_is_not_run(published: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"features.0.weight": Program(tmp_path / "ran")}, tmp_path / "vgg.pth")
    with pytest.raises(TrainingError, match=r"vgg\.pth"):
        load_lpips(tmp_path / "vgg.pth")
    assert not (tmp_path / "ran").exists()


def test_the_packaged_trunk_needs_no_heads(published: dict[str, Tensor], tmp_path: Path) -> None:
    body = {name: tensor for name, tensor in published.items() if name.startswith("features.")}
    save_file(body, tmp_path / "vgg16.safetensors")
    loss = load_perceptual("vgg", tmp_path / "vgg16.safetensors")
    assert loss is not None
    a, b = pictures(1, 16, seed=1), pictures(1, 16, seed=2)
    expected = VGG16(PACKAGED)
    expected.load_state_dict({name: tensor.float() for name, tensor in body.items()})
    ones = [torch.ones(channels) for channels in CHANNELS]
    torch.testing.assert_close(loss(a, b), FeatureDistance(expected, ones)(a, b))
    with pytest.raises(TrainingError, match=r"lin0\.model\.1\.weight"):
        load_perceptual("lpips", tmp_path / "vgg16.safetensors")


def test_a_loss_without_its_weights_says_what_fetches_them() -> None:
    assert load_perceptual("none", None) is None
    with pytest.raises(TrainingError, match="omnitok data networks"):
        load_perceptual("vgg", None)
