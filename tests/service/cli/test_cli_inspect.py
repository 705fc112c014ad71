"""`omnitok inspect`: arrays of what the network is fed, a description of each file, and a contact sheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from media.reader import open_frames
from media.types import MediaOptions

Omnitok = Callable[..., Any]
CASES = Path(__file__).parents[2] / "media" / "cases"


def pixels(path: Path, options: MediaOptions) -> np.ndarray:
    with path.open("rb") as file:
        return np.stack(list(open_frames(file, None, options)))


def test_arrays_hold_what_is_read_with_the_options(omnitok: Omnitok, media: Path) -> None:
    files = "{m}/picture.png {m}/clip.mp4"
    run = omnitok(f"inspect {files} --size 24x32 --frames 3 --sampling uniform --start-s 0.1 --end-s 0.4 -o arrays")
    assert run.code == 0, run.err
    options = MediaOptions((24, 32), frames=3, sampling="uniform", start_s=0.1, end_s=0.4)
    for name in ("picture.png", "clip.mp4"):
        array = np.load(Path("arrays") / f"{name}.npy")
        assert array.dtype == np.uint8
        assert np.array_equal(array, pixels(media / name, options))
        assert f"{name}.npy {array.shape}" in run.out


@pytest.mark.parametrize(
    ("file", "facts"),
    [
        ("mp4v.mp4", ["MOV (video/mp4)", "mpeg4", "96x128", "25.000 frames per second", "17 of 20: the first 17"]),
        ("sar21.mp4", ["96x256, stored as 96x128 with pixels of 2:1"]),
        ("transpose.mp4", ["128x96, stored as 96x128", "transposed"]),
        ("hd_untagged.mp4", ["no matrix, taken for BT.709"]),
        ("p3.png", ["profile test", "1, a picture"]),
        ("g2trns.png", ["transparency shown on white"]),
        ("gif10.gif", ["the first of an animation; --animated keeps more"]),
    ],
)  # fmt: skip
def test_the_description_says_how_a_file_is_stored(omnitok: Omnitok, file: str, facts: list[str]) -> None:
    run = omnitok(f"inspect {CASES / file} --frames 17 -o .")
    assert run.code == 0, run.err
    for fact in facts:
        assert fact in run.out


def test_a_jpeg_is_described(omnitok: Omnitok) -> None:
    Image.new("RGB", (80, 60), (250, 0, 0)).save("red.jpg")
    run = omnitok("inspect red.jpg -o . --size 32")
    assert run.code == 0, run.err
    assert "JPEG (image/jpeg)" in run.out
    assert "resized to 32x43, cropped to 32x32" in run.out


def test_bad_files_are_named_and_the_others_are_read(omnitok: Omnitok, media: Path) -> None:
    run = omnitok(
        f"inspect nowhere.png {CASES / 'cover.mp4'} {{m}}/picture.png {{m}}/picture.png -o arrays --sheet sheet.png"
    )
    assert run.code == 1
    assert "3 of 4 files failed" in run.err
    assert "nowhere.png" in run.out
    assert "holds audio and cover pictures" in run.out
    assert "is that of" in run.out
    assert [path.name for path in Path("arrays").iterdir()] == ["picture.png.npy"]
    with Image.open("sheet.png") as sheet:
        assert len(sheet.getcolors(1 << 20) or ()) > 20  # the picture, and captions


def test_arrays_do_not_go_to_standard_output(omnitok: Omnitok) -> None:
    run = omnitok("inspect {m}/picture.png --out -")
    assert run.code == 2
    assert "name a file or a folder" in run.err
    assert not Path("-").exists()


def test_the_sheet_shows_the_frames_that_were_kept(omnitok: Omnitok, tmp_path: Path) -> None:
    for number, colour in enumerate([(250, 0, 0), (0, 250, 0), (0, 0, 250)]):
        Image.new("RGB", (80, 60), colour).save(f"{number}.png")
    assert omnitok("inspect 0.png 1.png 2.png -o . --sheet sheet.png").code == 0
    with Image.open("sheet.png") as sheet:
        counts = {colour: count for count, colour in sheet.getcolors(1 << 20) or ()}
    assert [counts[colour] for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))] == [80 * 60] * 3


@pytest.mark.parametrize(
    ("options", "frames"),
    [
        ("", "20 of 20: all, at 0.000 s to 0.760 s"),
        ("--frames 7", "7 of 20: the first 7, at 0.000 s to 0.240 s"),
        ("--frames 20", "20 of 20: the first 20, at 0.000 s to 0.760 s"),
        ("--frames 99", "20 of 20: fewer than the 99 asked for, at 0.000 s to 0.760 s"),
        ("--sampling stride --stride 4", "5 of 20: one in 4, at 0.000 s to 0.640 s"),
        (
            "--frames 3 --sampling uniform --start-s 0.1 --end-s 0.4",
            "3 of 20: from 0.1 s, before 0.4 s, 3 spread evenly, at 0.120 s to 0.360 s",
        ),
    ],
)
def test_the_description_says_which_frames_are_kept_and_why(omnitok: Omnitok, options: str, frames: str) -> None:
    run = omnitok(f"inspect {CASES / 'mp4v.mp4'} {options} -o .")
    assert run.code == 0, run.err
    assert [line.split(maxsplit=1)[1] for line in run.out.splitlines() if "frames  " in line] == [frames]
