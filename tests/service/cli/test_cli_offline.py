"""The command without a server: what it writes is what the model says, whatever the file types and sizes."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from media.reader import open_frames
from media.types import MediaOptions
from model.bundle import load_bundle
from model.metrics.psnr import psnr
from model.metrics.ssim import ssim
from service.cli import offline, offline_network
from service.cli.inputs import open_media
from service.formats.codes import read_codes, sniff_codes, write_codes
from service.formats.media_types import NPZ
from service.formats.result import EncodeResult

Omnitok = Callable[..., Any]
DEMO_BUNDLES = Path(__file__).parents[3] / "bundles"
RESULTS = ("npz", "safetensors", "msgpack")


def pixels_of(path: Path, options: MediaOptions | None = None) -> np.ndarray:
    """All frames of a file, (T, H, W, 3)."""
    if path.suffix == ".npy":
        array = np.load(path)
        return array if array.ndim == 4 else array[None]
    with path.open("rb") as file:
        return np.stack(list(open_frames(file, None, options)))


def result_of(path: Path) -> EncodeResult:
    data = path.read_bytes()
    form = sniff_codes(data[:16])
    assert form is not None
    return read_codes(data, form)


@pytest.mark.parametrize("variant", ["debug", "whole", "vae"])
@pytest.mark.parametrize("name", ["picture.png", "picture.npy", "clip.mp4", "clip.npy"])
def test_a_round_trip_is_the_model_on_whole_clips(
    omnitok: Omnitok, bundles: Path, media: Path, variant: str, name: str
) -> None:
    assert omnitok(f"encode {{m}}/{name} -b {{b}}/{variant} -o codes.npz").code == 0
    assert omnitok(f"decode codes.npz -b {{b}}/{variant} -o back.npy").code == 0
    tokenizer = load_bundle(bundles / variant).tokenizer
    pixels = torch.from_numpy(pixels_of(media / name))[None]
    with torch.inference_mode():
        codes, copy = tokenizer.encode(pixels)[0].numpy(), tokenizer.reconstruct(pixels)[0].numpy()
    result = result_of(Path("codes.npz"))
    if variant == "vae":
        assert result.tokens is None
        np.testing.assert_allclose(result.latents, codes, atol=1e-5)
    else:
        assert result.latents is None
        np.testing.assert_array_equal(result.tokens, codes)
    assert np.load("back.npy").shape == copy.shape
    # Sums of another order may round to the neighbouring level.
    np.testing.assert_allclose(np.load("back.npy").astype(int), copy, atol=1)


@pytest.mark.parametrize("form", RESULTS)
def test_every_kind_of_file_carries_the_same(omnitok: Omnitok, bundles: Path, form: str) -> None:
    assert omnitok("encode {m}/clip.mp4 -b {b}/debug -o a.npz --size 24x40 --frames 6").code == 0
    assert omnitok(f"encode {{m}}/clip.mp4 -b {{b}}/debug -o b.{form} --size 24x40 --frames 6").code == 0
    one, other = result_of(Path("a.npz")), result_of(Path(f"b.{form}"))
    np.testing.assert_array_equal(one.tokens, other.tokens)
    assert one.meta == other.meta
    meta = one.meta
    assert meta.bundle == load_bundle(bundles / "debug").hash
    assert (meta.model, meta.kind, meta.codebook_size) == ("debug", "vq", 64)
    assert meta.size is not None
    assert meta.size.as_tuple() == (6, 24, 40)
    assert meta.grid == [3, 3, 5]
    assert meta.fps == pytest.approx(12.5)
    assert meta.source is not None
    assert (meta.source.media_type, meta.source.codec, meta.source.frames_in) == ("video/mp4", "h264", 11)
    assert meta.preprocess is not None
    assert meta.preprocess.resize is not None


def test_an_npz_opens_with_numpy_alone(omnitok: Omnitok) -> None:
    assert omnitok("encode {m}/clip.npy -b {b}/debug -o tokens.npz").code == 0
    with np.load("tokens.npz", allow_pickle=False) as archive:
        assert archive["tokens"].shape == (4, 4, 6)
        assert json.loads(str(archive["meta"]))["model"] == "debug"


def test_a_vq_bundle_gives_latents_that_decode_to_the_same_pixels(omnitok: Omnitok) -> None:
    for output in ("tokens", "latents", "both"):
        assert omnitok(f"encode {{m}}/picture.png -b {{b}}/debug -o {output}.npz --output {output}").code == 0
        assert omnitok(f"decode {output}.npz -b {{b}}/debug -o {output}.npy").code == 0
    both = result_of(Path("both.npz"))
    np.testing.assert_array_equal(both.tokens, result_of(Path("tokens.npz")).tokens)
    np.testing.assert_array_equal(both.latents, result_of(Path("latents.npz")).latents)
    np.testing.assert_array_equal(np.load("tokens.npy"), np.load("latents.npy"))
    np.testing.assert_array_equal(np.load("tokens.npy"), np.load("both.npy"))


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "gif", "npy"])
def test_a_picture_becomes_any_picture(omnitok: Omnitok, suffix: str) -> None:
    omnitok("encode {m}/picture.png -b {b}/debug -o t.npz")
    assert omnitok(f"decode t.npz -b {{b}}/debug -o p.{suffix}").code == 0
    assert omnitok("decode t.npz -b {b}/debug -o exact.npy").code == 0
    exact = np.load("exact.npy")
    assert exact.shape == (1, 35, 50, 3)
    if suffix != "npy":
        with Image.open(f"p.{suffix}") as picture:
            assert picture.size == (50, 35)
            if suffix == "png":
                np.testing.assert_array_equal(np.asarray(picture), exact[0])


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif"])
def test_a_clip_becomes_any_clip(omnitok: Omnitok, suffix: str) -> None:
    omnitok("encode {m}/clip.mp4 -b {b}/debug -o t.npz")
    assert omnitok(f"decode t.npz -b {{b}}/debug -o c.{suffix}").code == 0
    with Path(f"c.{suffix}").open("rb") as file:
        reader = open_frames(file, None, MediaOptions(animated=True))
        assert np.stack(list(reader)).shape == (11, 32, 42, 3)
        assert reader.info().fps == pytest.approx(12.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "frames", "fps"),
    [
        ("", 11, 12.5),
        ("--frames 4", 4, 12.5),
        ("--sampling stride --stride 3", 4, 12.5 / 3),
        ("--sampling uniform --frames 6", 6, 12.5 / 2),
        ("--start 0.25 --end 0.6", 4, 12.5),
    ],
)
def test_parts_of_a_clip(omnitok: Omnitok, options: str, frames: int, fps: float) -> None:
    assert omnitok(f"encode {{m}}/clip.mp4 -b {{b}}/debug -o t.npz {options}").code == 0
    meta = result_of(Path("t.npz")).meta
    assert meta.size is not None
    assert meta.size.frames == frames
    assert meta.fps == pytest.approx(fps)


def test_an_animation_is_a_picture_unless_asked(omnitok: Omnitok) -> None:
    for option, frames in (("", 1), ("--animated", 11)):
        assert omnitok(f"encode {{m}}/animation.gif -b {{b}}/debug -o t.npz {option}").code == 0
        size = result_of(Path("t.npz")).meta.size
        assert size is not None
        assert size.frames == frames


def test_an_array_is_sampled_and_resized_like_a_file(omnitok: Omnitok) -> None:
    line = "encode {m}/clip.npy -b {b}/debug -o t.npz --size 16 --fit contain --sampling stride --stride 5"
    assert omnitok(line).code == 0
    meta = result_of(Path("t.npz")).meta
    assert meta.size is not None
    assert meta.size.as_tuple() == (3, 16, 16)
    assert meta.preprocess is not None
    assert meta.preprocess.pad == (2, 0, 16, 16)


def test_reconstruct_prints_what_the_files_show(omnitok: Omnitok, media: Path) -> None:
    run = omnitok("reconstruct {m}/clip.npy -b {b}/debug --out copy.npy --side-by-side both.npy")
    assert run.code == 0
    original, copy = np.load(media / "clip.npy"), np.load("copy.npy")
    np.testing.assert_array_equal(np.load("both.npy"), np.concatenate([original, copy], axis=2))
    row = next(line for line in run.out.splitlines() if "clip.npy" in line)
    expected = psnr(original, copy)
    for figure in (f"{expected.mean():.2f}", f"{expected.min():.2f}", f"{ssim(original, copy).mean():.4f}", "32x42"):
        assert figure in row


def test_reconstruct_scores_many_files_and_their_mean(omnitok: Omnitok) -> None:
    run = omnitok("reconstruct {m}/picture.png {m}/clip.mp4 {m}/clip.npy -b {b}/whole --size 8x16")
    assert run.code == 0
    lines = run.out.splitlines()
    assert all(any(name in line for line in lines) for name in ("picture.png", "clip.mp4", "clip.npy", "mean"))
    assert any("mean" in line and line.rstrip().endswith("- │") for line in lines)  # too small for SSIM


def test_reconstruct_writes_clips_to_look_at(omnitok: Omnitok) -> None:
    line = "reconstruct {m}/clip.mp4 -b {b}/debug --out a.webm --side-by-side b.webm --sampling stride --stride 2"
    assert omnitok(line).code == 0
    for name, width in (("a.webm", 42), ("b.webm", 84)):
        with Path(name).open("rb") as file:
            reader = open_frames(file, None)
            assert np.stack(list(reader)).shape == (6, 32, width, 3)
            assert reader.info().fps == pytest.approx(6.25, rel=0.01)


def test_models_describes_bundles(omnitok: Omnitok, bundles: Path) -> None:
    run = omnitok("models -b {b}/debug -b {b}/vae")
    assert run.code == 0
    for words in ("debug", "vae", "64", "Apache-2.0", load_bundle(bundles / "debug").hash[:12]):
        assert words in run.out


def test_the_demo_bundles_fit_a_narrow_terminal(omnitok: Omnitok, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    Path("bundles").symlink_to(DEMO_BUNDLES)
    lines = omnitok("models").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert {path.name for path in DEMO_BUNDLES.iterdir()} <= {line.partition(" ")[0] for line in lines}


def test_names_and_hashes_are_whole_on_a_narrow_terminal(
    omnitok: Omnitok, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "longer-than-a-line-[bold]-" * 4
    shutil.copytree(bundles / "debug", name)
    _, row = omnitok(f"models -b '{name}'").out.splitlines()
    assert (row.split()[0], row.split()[-1]) == (name, load_bundle(bundles / "debug").hash[:12])


def test_the_default_bundle_is_taken_where_it_is(omnitok: Omnitok, bundles: Path) -> None:
    assert omnitok("encode {m}/picture.png -o t.npz").code == 1
    Path("bundles").mkdir()
    Path("bundles/demo-vq").symlink_to(bundles / "debug")
    assert omnitok("encode {m}/picture.png -o t.npz").code == 0
    assert omnitok("decode t.npz -o p.png").code == 0


def test_tokens_that_do_not_say_their_bundle_are_refused(omnitok: Omnitok) -> None:
    np.save("bare.npy", np.zeros((1, 4, 4), np.uint16))
    run = omnitok("decode bare.npy -b {b}/debug -o p.png")
    assert run.code == 1
    assert "which bundle" in run.err


def test_tokens_outside_the_codebook_are_refused(omnitok: Omnitok) -> None:
    omnitok("encode {m}/picture.png -b {b}/debug -o t.npz")
    result = result_of(Path("t.npz"))
    assert result.tokens is not None
    broken = EncodeResult(result.meta, np.full_like(result.tokens, 64))
    Path("broken.npz").write_bytes(write_codes(broken, NPZ))
    run = omnitok("decode broken.npz -b {b}/debug -o p.png")
    assert run.code == 1
    assert "[0, 64)" in run.err
    assert not Path("p.png").exists()


def test_a_long_side_by_side_array_keeps_its_header(tmp_path: Path) -> None:
    from service.cli.destination import Target
    from service.cli.outputs import writing_pixels

    parts = [np.full((n, 2, 3, 3), n % 251, np.uint8) for n in (9, 90, 901)]
    with writing_pixels(Target(tmp_path / "x.npy", "application/x-npy"), 1000, 25.0) as write:
        for part in parts:
            write(part)
    np.testing.assert_array_equal(np.load(io.BytesIO((tmp_path / "x.npy").read_bytes())), np.concatenate(parts))


@pytest.mark.parametrize("frames", [1, 4, 9, 14])
def test_parts_of_a_reconstruction_belong_together(
    bundles: Path, tmp_path: Path, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk's last frames wait for the next one, and so do their reconstructions."""
    monkeypatch.setattr(offline_network, "CHUNK_PIXELS", 1)
    clip = np.random.default_rng(0).integers(0, 256, (frames, 21, 35, 3), np.uint8)
    tokenizer = offline.LocalTokenizer(bundles / "debug", "cpu")
    np.save(tmp_path / "clip.npy", clip)
    with open_media(tmp_path / "clip.npy", MediaOptions()) as reader:
        parts = list(tokenizer.reconstruct(reader, None))
    assert all(len(original) == len(copy) for original, copy in parts)
    originals, copies = (np.concatenate(side) for side in zip(*parts, strict=True))
    assert np.array_equal(originals, clip)
    with torch.inference_mode():
        whole = load_bundle(bundles / "debug").tokenizer.reconstruct(torch.from_numpy(clip)[None])[0].numpy()
    assert np.abs(copies.astype(int) - whole).max() <= 1
