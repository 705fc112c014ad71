"""`omnitok evaluate`, from bundles and files on disk to metrics, tables, pictures and plots."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from model.bundle import load_bundle, save_bundle
from model.metrics.psnr import psnr
from model.metrics.ssim import ssim
from model.tokenizer.config import CONFIGS, VAEConfig
from model.tokenizer.tokenizer import OmniTokenizer
from training.__main__ import app
from training.data.shards import SetInfo, open_set, write_info, write_shard
from training.errors import TrainingError
from training.evaluation.datasets import open_datasets
from training.evaluation.suite import MetricSuite, NetworkPaths
from training.evaluation.sweep import StreamComparison, psnr_by_frame, psnr_steps
from training.networks.efficientnet import EfficientNetLite0
from training.networks.inception import InceptionV3
from training.networks.lpips import FeatureDistance
from training.networks.vgg import CHANNELS, PACKAGED, VGG16

run = CliRunner()
CPU = torch.device("cpu")
DEBUG = replace(CONFIGS["debug"], temporal_order="causal")


def bundle_of(folder: Path, kind: str) -> Path:
    """A tiny random bundle, VQ or VAE."""
    torch.manual_seed(0)
    config = DEBUG if kind == "vq" else replace(DEBUG, head=VAEConfig(dim=4))
    save_bundle(folder / kind, OmniTokenizer(config), "A tokenizer of random weights.")
    return folder / kind


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {kind: bundle_of(folder, kind) for kind in ("vq", "vae")}


def pictures(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (count, height, width, 3): a few coarse blobs of colour."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, 5, 5, 3), np.uint8)
    return np.stack([np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC)) for c in coarse])


def write_video(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder: four images in two classes, a video, a damaged image and a text."""
    root = tmp_path / "mine"
    for number, picture in enumerate(pictures(4, 50, 70)):
        (root / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / "ab"[number % 2] / f"{number}.png")
    (root / "a" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (root / "notes.txt").write_text("not for us")
    write_video(root / "film.mp4", pictures(12, 48, 64, seed=1))
    return root


def evaluated(*arguments: object) -> str:
    result = run.invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def record(out: Path) -> dict:
    return json.loads((out / "evaluation.json").read_text())


def test_a_vq_bundle_on_held_out_sets(bundles: dict[str, Path], data: Path, tmp_path: Path) -> None:
    output = evaluated(bundles["vq"], data, "--out", tmp_path, "--networks", tmp_path / "none")
    assert "omnitok data networks" in output.replace("\n", " ")
    assert "FID-lite" in output
    found = record(tmp_path)
    assert found["bundle"] == load_bundle(bundles["vq"]).hash
    assert found["results"][0]["title"] == "photographs, 128x128"
    assert len(found["results"]) == 4
    assert len(found["left out"]) == 2
    assert found["versions"]["torch"] == torch.__version__
    tokens = [scores["codes"]["tokens"] for scores in found["results"]]
    assert tokens == [12 * 64, 12 * 64, 12 * 2 * 64, 12 * 2 * 64]
    assert found["all"]["tokens"] == sum(tokens)
    assert found["all"]["usage"] >= max(scores["codes"]["usage"] for scores in found["results"])
    lines = (tmp_path / "metrics.md").read_text().splitlines()
    title, items, decibels, *_ = lines[2].strip("| ").split(" | ")
    assert (title, int(items)) == ("photographs, 128x128", 12)
    assert float(decibels) == pytest.approx(found["results"][0]["psnr"], abs=0.01)
    for name, columns in (("camera-128", 5), ("photographs-128", 8)):
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.size == (columns * 68 - 4, 2 * 64 + 4)
    assert not list(tmp_path.glob(".*"))


def test_scores_are_those_of_the_reconstructions(bundles: dict[str, Path], data: Path, tmp_path: Path) -> None:
    evaluated(bundles["vae"], data / "held-out/camera-128", "--out", tmp_path, "--networks", tmp_path / "none")
    tokenizer = load_bundle(bundles["vae"]).tokenizer
    pixels = open_set(data / "held-out/camera-128").pixels()
    with torch.inference_mode():
        mean, logvar = tokenizer.encode_moments(pixels)
        restored = tokenizer.decode(mean, (5, 64, 64))
    (scores,) = record(tmp_path)["results"]
    assert (scores["items"], scores["frames"]) == (12, 60)
    assert scores["psnr"] == pytest.approx(float(psnr(pixels, restored).mean()), rel=1e-6)
    assert scores["ssim"] == pytest.approx(float(ssim(pixels, restored).mean()), rel=1e-6)
    codes = scores["codes"]
    assert codes["mean"] == pytest.approx(mean.double().mean(dim=(0, 1, 2, 3)).tolist(), abs=1e-5)
    divergence = 0.5 * (mean.double() ** 2 + logvar.double().exp() - 1 - logvar.double()).sum(dim=-1).mean()
    assert codes["kl"] == pytest.approx(float(divergence), rel=1e-5)
    assert "KL, nats" in (tmp_path / "metrics.md").read_text()


@pytest.fixture
def packaged(tmp_path: Path) -> Path:
    """The packaged networks' files, with random weights."""
    torch.manual_seed(1)
    networks = tmp_path / "networks"
    networks.mkdir()
    lite = EfficientNetLite0()
    for layer in lite.modules():
        if isinstance(layer, nn.Conv2d):  # of a size that keeps what passes through alive
            nn.init.kaiming_normal_(layer.weight)
    save_file(lite.state_dict(), networks / "efficientnet-lite0.safetensors")
    save_file(
        {n: v.contiguous().half() for n, v in VGG16(PACKAGED).state_dict().items()}, networks / "vgg16.safetensors"
    )
    return networks


def test_a_users_folder_with_packaged_networks(
    bundles: dict[str, Path], folder: Path, packaged: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    output = evaluated(bundles["vq"], folder, "--out", out, "--networks", packaged, "--side", 36, "--frames", 6)
    assert "broken.jpg" in output.replace("\n", "")
    found = record(out)
    images, clips = found["results"]
    assert (images["title"], images["items"], len(images["broken"])) == ("images, 36x36", 4, 1)
    assert (clips["title"], clips["items"], clips["frames"]) == ("clips, 6x36x36", 1, 6)
    metrics = {metric["name"]: metric for metric in images["metrics"]}
    assert set(metrics) == {"FID-lite", "FID-lite, 64-d", "KID-lite", "VGG distance"}
    assert metrics["VGG distance"]["value"] > 0
    assert all(metric["half_split"] > 0 for metric in metrics.values())
    assert set(found["networks"]) == {"efficientnet-lite0", "vgg16"}
    assert any("224x224" in sentence for sentence in found["preprocessing"])
    assert "not FID, KID, FVD or LPIPS" in (out / "metrics.md").read_text()
    assert {path.name for path in out.iterdir()} == {"evaluation.json", "metrics.md", "images.png", "clips.png"}


def test_standard_networks_give_the_standard_names(
    bundles: dict[str, Path], folder: Path, packaged: Path, tmp_path: Path
) -> None:
    torch.manual_seed(2)
    torch.save(InceptionV3().state_dict(), tmp_path / "inception.pth")
    heads = {f"lin{n}.model.1.weight": torch.rand(1, c, 1, 1) for n, c in enumerate(CHANNELS)}
    trunk = {name: value.float() for name, value in VGG16(PACKAGED).state_dict().items()}
    torch.save({**trunk, **heads}, tmp_path / "lpips.pth")
    out = tmp_path / "out"
    arguments = ("--inception", tmp_path / "inception.pth", "--lpips", tmp_path / "lpips.pth", "--networks", packaged)
    evaluated(bundles["vae"], folder / "b", "--out", out, "--side", 32, *arguments)
    found = record(out)
    assert [metric["name"] for metric in found["results"][0]["metrics"]] == ["rFID", "LPIPS"]
    assert {kind: entry["file"] for kind, entry in found["networks"].items() if kind != "efficientnet-lite0"} == {
        "inception": "inception.pth",
        "lpips": "lpips.pth",
    }
    assert "lite" not in (out / "metrics.md").read_text()


def sweep_sets(root: Path) -> Path:
    """The sets of the sweep, small."""
    photographs, films = root / "held-out/photographs-512", root / "held-out/camera-65"
    write_info(photographs, SetInfo("photographs-512", 1, 128, 128, (), "drawn"))
    write_shard(photographs, 0, pictures(3, 128, 128)[:, None])
    write_info(films, SetInfo("camera-65", 30, 32, 32, (), "drawn"))
    write_shard(films, 0, pictures(60, 32, 32, seed=4).reshape(2, 30, 32, 32, 3))
    return root


@pytest.mark.parametrize("kind", ["vq", "vae"])
def test_the_sweep_plots_every_size_and_streams_without_a_seam(
    kind: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    output = evaluated(bundles[kind], sweep_sets(tmp_path / "data"), "--sweep", "--out", out)
    resolution, frames = (
        json.loads((out / f"{name}.json").read_text()) for name in ("psnr-by-resolution", "psnr-by-frame")
    )
    assert list(resolution["psnr"]) == ["64", "96", "128"]
    tokenizer = load_bundle(bundles[kind]).tokenizer
    whole = open_set(tmp_path / "data/held-out/photographs-512").pixels()
    with torch.inference_mode():
        expected = float(psnr(whole, tokenizer.reconstruct(whole)).mean())
    assert resolution["psnr"]["128"]["mean"] == pytest.approx(expected, rel=1e-6)
    assert len(frames["psnr"]["whole"]) == 30
    assert frames["largest pixel difference"] <= 1
    if kind == "vq":
        assert frames["equal codes"]
        assert "the same codes" in output.replace("\n", " ")
    assert frames["share of pixels that differ"] < 1e-3
    assert frames["psnr"]["chunked"] == pytest.approx(frames["psnr"]["whole"], abs=0.05)
    assert frames["chunks begin at"] == [9, 17, 25]  # 9 frames; 18 wait for 17; 27 wait for 25; the rest at the end
    for name in ("psnr-by-resolution", "psnr-by-frame"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 300
    assert not list(out.glob(".*"))


def test_a_seam_shows_where_it_is() -> None:
    curve = np.full((2, 18), 30.0)
    curve[:, 9:] = 29.0  # a step into the frame that begins a chunk
    curve[:, 5:9] = 30.2  # smaller ones at the border of a patch before it
    found = psnr_steps(StreamComparison(curve, curve, (9,), True, 0, 0.0), temporal_patch=4)
    assert found["at chunk borders"] == pytest.approx(1.2)
    assert found["at other patch borders"] == pytest.approx((0 + 0.2 + 0 + 0) / 4)
    assert found["within patches"] == 0


def test_a_model_that_sees_later_frames_has_no_sweep_by_frame() -> None:
    tokenizer = OmniTokenizer(replace(CONFIGS["debug"], causal_attention=False, temporal_window=None)).eval()
    with pytest.raises(TrainingError, match="whole clips only"):
        psnr_by_frame(tokenizer, torch.zeros(1, 9, 12, 12, 3, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["inception", "i3d", "lpips"])
def test_named_weights_must_be_there_and_belong_to_the_network(name: str, packaged: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing"):
        MetricSuite(NetworkPaths(packaged, **{name: tmp_path / "nothing.pth"}), CPU)
    with pytest.raises(TrainingError, match="efficientnet-lite0"):
        MetricSuite(NetworkPaths(packaged, **{name: packaged / "efficientnet-lite0.safetensors"}), CPU)


def test_a_packaged_file_of_another_network_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "efficientnet-lite0.safetensors")
    with pytest.raises(TrainingError, match="EfficientNetLite0"):
        MetricSuite(NetworkPaths(tmp_path), CPU)


def test_the_distance_of_the_packaged_trunk_is_never_called_lpips(packaged: Path) -> None:
    suite = MetricSuite(NetworkPaths(packaged), CPU)
    assert suite.paired is not None
    assert suite.paired[0] == "VGG distance"
    assert isinstance(suite.paired[1], FeatureDistance)
    assert all(name not in " ".join(suite.protocols()) for name in ("LPIPS", "rFID", "rFVD"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["NOTHING", "DATA"], "is not a bundle"),
        (["BUNDLE", "DATA", "--device", "tpu0"], "no device 'tpu0'"),
        (["BUNDLE", "NOTHING"], "does not exist"),
        (["BUNDLE", "EMPTY"], "no images, no videos and no data set"),
        (["BUNDLE", "BROKEN"], "None of the 1"),
        (["BUNDLE", "DATA", "--side", "8"], "greater than or equal to 16"),
        (["BUNDLE", "DATA", "--frames", "0"], "greater than or equal to 1"),
        (["BUNDLE", "DATA", "--items", "0"], "greater than or equal to 1"),
        (["BUNDLE", "DATA", "--inception", "NOTHING"], "does not exist"),
        (["BUNDLE", "DATA", "--sweep"], "photographs-512"),
        (["BUNDLE", "DATA", "--sweep", "--guidance", "2"], "--sweep takes no --guidance."),
        (["BUNDLE", "DATA", "--sweep", "--side", "64", "--items", "2"], "--sweep takes no --side and no --items."),
        (["BUNDLE", "DATA", "--held-out", "NOTHING"], "A tokenizer takes no --held-out."),
    ],
)
def test_what_cannot_be_evaluated_is_said_in_one_sentence(
    arguments: list[str], message: str, bundles: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    places = {
        "BUNDLE": bundles["vq"],
        "DATA": data,
        "NOTHING": tmp_path / "nothing",
        "EMPTY": tmp_path / "empty",
        "BROKEN": tmp_path / "broken",
    }
    places["EMPTY"].mkdir()
    places["BROKEN"].mkdir()
    (places["BROKEN"] / "zero.png").write_bytes(b"")
    out = tmp_path / "out"
    command = ["evaluate", *(str(places.get(word, word)) for word in arguments)]
    result = run.invoke(app, [*command, "--out", str(out), *([] if "--sweep" in command else ["--networks", str(out)])])
    assert result.exit_code == (2 if "greater" in message else 1)
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output
    assert not out.exists()


def test_a_held_out_set_that_is_missing_is_named(data: Path) -> None:
    (data / "held-out/camera-128/set.json").unlink()
    with pytest.raises(TrainingError, match="camera-128"):
        open_datasets(data, 64, 17, None)


def test_a_folder_of_other_sets_says_which_they_are(data: Path, tmp_path: Path) -> None:
    play = tmp_path / "play"
    names = [play / name for name in ("held-out/train/play-128", "train/play-128")]
    for name in names:
        shutil.copytree(data / "held-out/camera-128", name)
    for folder, listed in ((play, names), (play / "held-out", names[:1])):
        with pytest.raises(TrainingError, match=rf"Name one of them: {', '.join(map(str, listed))}\.$"):
            open_datasets(folder, 64, 17, None)


def test_a_limit_spreads_over_the_set_and_its_shards(data: Path) -> None:
    folder = data / "held-out/photographs-128"
    (all_items,) = open_datasets(folder, 64, 17, None)
    (some,) = open_datasets(folder, 64, 17, 3)
    everything, chosen = (np.concatenate(list(items.batches())) for items in (all_items, some))
    assert (len(all_items), len(some)) == (12, 3)
    np.testing.assert_array_equal(everything, open_set(folder).pixels().numpy())
    np.testing.assert_array_equal(chosen, everything[[0, 6, 11]])
