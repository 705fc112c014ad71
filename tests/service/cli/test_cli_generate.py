"""`omnitok generate`: against a server, and with bundles."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.formats.codes import read_codes
from service.settings import Settings

Omnitok = Callable[..., Any]


def test_a_picture(omnitok: Omnitok, server: str) -> None:
    run = omnitok(f"generate --server {server} --class 'red fox' --seed 3 -o fox.png")
    assert run.code == 0, run.err
    assert "fox.png: toy-lm, seed 3, class 1 (red fox)" in run.out
    with Image.open("fox.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (32, 32))
    first = Path("fox.png").read_bytes()
    assert omnitok(f"generate --url {server} --class 1 --seed 3 -o again.png").code == 0
    assert Path("again.png").read_bytes() == first


@pytest.mark.parametrize(("suffix", "signature"), [("mp4", b"ftyp"), ("gif", b"GIF8"), ("webm", b"\x1a\x45\xdf\xa3")])
def test_a_clip(omnitok: Omnitok, server: str, suffix: str, signature: bytes) -> None:
    assert omnitok(f"generate --server {server} --class 0 --frames 5 -o clip.{suffix}").code == 0
    assert signature in Path(f"clip.{suffix}").read_bytes()[:16]


def test_several_samples_and_their_grid(omnitok: Omnitok, server: str) -> None:
    run = omnitok(f"generate --server {server} --class 0 --n 3 --seed 1 -o made --grid sheets/sheet.png")
    assert run.code == 0, run.err
    assert sorted(path.name for path in Path("made").iterdir()) == ["00.png", "01.png", "02.png"]
    sheet = np.asarray(Image.open("sheets/sheet.png"))
    assert sheet.shape == (2 * 34 + 2, 2 * 34 + 2, 3)
    for index in range(3):
        top, left = 2 + 34 * (index // 2), 2 + 34 * (index % 2)
        tile = sheet[top : top + 32, left : left + 32]
        assert (tile == np.asarray(Image.open(f"made/0{index}.png"))).all()


def test_the_grid_of_clips_has_a_row_for_each(omnitok: Omnitok, server: str) -> None:
    assert omnitok(f"generate --server {server} --class 0 --n 2 --frames 5 --grid sheet.webp").code == 0
    with Image.open("sheet.webp") as sheet:
        assert sheet.size == (5 * 34 + 2, 2 * 34 + 2)


def test_tokens_that_decode_and_are_continued(omnitok: Omnitok, server: str) -> None:
    made = f"generate --server {server} --class 0 --seed 1"
    assert omnitok(f"{made} --frames 5 -o short.npz").code == 0
    assert omnitok(f"{made} --frames 5 -o short.npy").code == 0
    assert omnitok(f"decode short.npz --server {server} -o decoded.npy").code == 0
    assert (np.load("decoded.npy") == np.load("short.npy")).all()
    assert omnitok(f"{made} --frames 9 --tokens short.npz -o long.npz").code == 0
    short, long = (read_codes(Path(name).read_bytes()).tokens for name in ("short.npz", "long.npz"))
    assert short is not None
    assert long is not None
    assert (long[:2] == short).all()


@pytest.mark.parametrize(
    "prefix", ["--image {m}/picture.png", "--video {m}/clip.mp4", "--video {m}/clip.npy --start-s 0"]
)
def test_media_are_continued(omnitok: Omnitok, server: str, prefix: str) -> None:
    if "npy" in prefix:
        np.save("clip.npy", np.zeros((5, 32, 32, 3), np.uint8))
        prefix = "--video clip.npy"
    run = omnitok(f"generate --server {server} --class 0 --frames 9 {prefix} -o made.npy")
    assert run.code == 0, run.err
    assert np.load("made.npy").shape == (9, 32, 32, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ("--class 0", 2, "Name a file or a folder"),
        ("--class 0 -o made.txt", 2, "ends in none of"),
        ("--class 0 --n 2 -o made.png", 2, "names one file, not 2"),
        ("--class 0 --n 2 -o -", 2, "holds one sample, not 2"),
        ("--class 0 -o made.png --format gif", 2, "does not go with"),
        ("--class 0 -o made --format txt", 2, "is none of"),
        ("--class 0 --grid made.mp4", 2, "ends in none of"),
        ("--class 0 --n 0 -o made", 2, "1 to 64, not 0"),
        ("--class 0 --temperature -1 -o made.png", 2, "at least 0"),
        ("--class 0 --temperature nan -o made.png", 2, "Invalid value for --temperature"),
        ("--class 0 --top-p 0 -o made.png", 2, "above 0"),
        ("--class 0 --kind image --frames 5 -o made.png", 2, "An image has one frame"),
        ("--class 0 --frames 5 --prefix-frames 5 -o made.mp4", 2, "leaves nothing"),
        ("--class 0 --image {m}/picture.png --video {m}/clip.mp4 -o made.mp4", 2, "one beginning"),
        ("--class 0 -b bundle -o made.png", 2, "A server uses its own bundles"),
        ("--class none -o made.png", 1, "No class of toy-lm has this name"),
        ("--class 0 --model none -o made.png", 1, "unknown-model"),
        ("--class 0 --frames 5 -o made.png", 2, "5 frames"),
        ("--class 0 --tokens {m}/picture.png --frames 5 -o made.mp4", 1, "not a sound file of tokens"),
        ("--class 0 --video missing.mp4 --frames 5 -o made.mp4", 1, "missing.mp4"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    omnitok: Omnitok, server: str, arguments: str, code: int, part: str
) -> None:
    run = omnitok(f"generate --server {server} {arguments}")
    assert (run.code, part in " ".join(run.err.split())) == (code, True), run.err
    assert not list(Path().iterdir())


def test_offline_pictures_of_a_class(omnitok: Omnitok) -> None:
    made = "generate -b {b}/lm --class bee --seed 3"
    run = omnitok(f"{made} -o bee.png")
    assert run.code == 0, run.err
    assert "bee.png: lm, seed 3, class 1 (bee)" in run.out
    assert omnitok(f"{made} --n 2 -o made --grid sheet.png").code == 0
    assert Path("made/00.png").read_bytes() == Path("bee.png").read_bytes() != Path("made/01.png").read_bytes()
    assert omnitok(f"{made} -o bee.npz").code == 0
    assert omnitok("decode bee.npz -b {b}/debug -o decoded.png").code == 0
    assert Path("decoded.png").read_bytes() == Path("bee.png").read_bytes()


def test_offline_clips_of_a_diffusion_model(omnitok: Omnitok) -> None:
    made = "generate -b {b}/latte --class bee --steps 2 --seed 3"
    run = omnitok(f"{made} -o clip.npy")
    assert run.code == 0, run.err
    assert np.load("clip.npy").shape == (9, 64, 64, 3)
    assert omnitok(f"{made} -o latents.npz").code == 0
    assert omnitok("decode latents.npz -b {b}/vae -o decoded.npy").code == 0
    assert (np.load("decoded.npy") == np.load("clip.npy")).all()


@pytest.mark.parametrize("name", ["lm", "latte"])
def test_the_file_says_whether_a_picture_or_a_clip_is_made(omnitok: Omnitok, name: str) -> None:
    made = f"generate -b {{b}}/{name} --class bee" + (" --steps 2" if name == "latte" else "")
    for file in ("bee.png", "bee.gif"):
        run = omnitok(f"{made} -o {file}")
        assert run.code == 0, run.err
    with Image.open("bee.png") as picture, Image.open("bee.gif") as clip:
        assert picture.size == clip.size
        assert getattr(clip, "n_frames", 1) > 1


@pytest.mark.parametrize("prefix", ["--image {m}/picture.png", "--video {m}/clip.mp4", "--tokens short.npz"])
def test_offline_continuation(omnitok: Omnitok, prefix: str) -> None:
    made = "generate -b {b}/lm --tokenizer {b}/debug --class 0 --seed 3"
    assert omnitok(f"{made} --frames 5 -o short.npz").code == 0
    run = omnitok(f"{made} {prefix} --frames 9 -o long.npz")
    assert run.code == 0, run.err
    result = read_codes(Path("long.npz").read_bytes())
    assert result.grid == (3, 4, 4)
    if "mp4" in prefix:
        assert result.meta.fps == pytest.approx(12.5)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        ("-b {b}/debug --class 0 -o made.png", 1, "name a generator bundle"),
        ("-b {b}/none --class 0 -o made.png", 1, "none"),
        ("--class 0 -o made.png", 1, "bundles/demo-lm does not exist here"),
        ("-b {b}/lm --tokenizer {b}/vae --class 0 -o made.png", 1, "needs the tokenizer"),
        ("-b {b}/lm --class eel -o made.png", 1, "`bee`"),
        ("-b {b}/lm --class 0 --temperatures 1 -o made.png", 2, "--temperatures"),
        ("-b {b}/lm --class 0 --model lm -o made.png", 2, "This names a model of a server"),
        ("-b {b}/lm --class 0 --steps 5 -o made.png", 1, "/steps"),
        ("-b {b}/lm --class 0 --video {m}/picture.npz --frames 9 -o made.mp4", 1, "picture.npz"),
    ],
)
def test_offline_what_cannot_be_done_is_one_sentence(omnitok: Omnitok, arguments: str, code: int, part: str) -> None:
    run = omnitok(f"generate {arguments}")
    assert (run.code, part in " ".join(run.err.split())) == (code, True), run.err
    assert not list(Path().iterdir())


@pytest.mark.parametrize("location", ["-b {b}/lm", "--server {server}"])
@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("--frames 1000001", "The grid 250001x4x4 is over 65536 positions. Use fewer frames."),
        ("--frames 2001", "frames; this one has 2001."),
        ("--temperature nan", "--temperature: A number must be finite, neither NaN nor infinite."),
        ("--guidance inf", "--guidance: A number must be finite, neither NaN nor infinite."),
        ("--frames 9 --prefix-frames 9", "A prefix of 9 frames leaves nothing of 9 to make."),
    ],
)
def test_offline_and_service_refuse_alike(
    omnitok: Omnitok, server: str, location: str, arguments: str, part: str
) -> None:
    run = omnitok(f"generate {location} --class 0 {arguments} -o made", server=server)
    said = " ".join(run.err.replace("│", " ").split())
    assert (run.code > 0, part in said) == (True, True), run.err


def test_the_tokenizer_is_found_in_the_default_folder(omnitok: Omnitok, bundles: Path) -> None:
    shutil.copytree(bundles / "lm", "alone/lm")
    run = omnitok("generate -b alone/lm --class 0 -o made.png")
    assert run.code == 1
    assert "name it with --tokenizer" in run.err
    Path("bundles").mkdir()
    Path("bundles/demo-vq").symlink_to(bundles / "debug")
    assert omnitok("generate -b alone/lm --class 0 -o made.png").code == 0


def test_models_lists_all_that_come_with_the_service(omnitok: Omnitok, bundles: Path) -> None:
    Path("bundles").mkdir()
    for name, source in (("demo-vq", "debug"), ("demo-lm", "lm"), ("demo-latte", "latte")):
        shutil.copytree(bundles / source, f"bundles/{name}")
    run = omnitok("models")
    assert run.code == 0, run.err
    assert re.findall("^demo-[a-z]+", run.out, re.MULTILINE) == ["demo-vq", "demo-latte", "demo-lm"]
    assert re.search(r"demo-latte +diffusion +video, image", run.out)


def test_models_lists_generators(omnitok: Omnitok, server: str) -> None:
    here = omnitok("models -b {b}/debug -b {b}/lm")
    assert here.code == 0, here.err
    assert re.search(r"lm +lm +image, video +4 .* debug", here.out)
    there = omnitok(f"models --server {server}")
    assert re.search(r"toy-dit +diffusion +image +4 .* vae ", there.out)


def test_serve_takes_generators(omnitok: Omnitok, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("service.cluster.app.serve_forever", lambda settings, _: seen.append(settings))
    assert omnitok("serve -b one -b two --generator three -g four").code == 0
    assert seen[0].bundles == (Path("one"), Path("two"))
    assert seen[0].generators == (Path("three"), Path("four"))
