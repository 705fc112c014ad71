"""Files on which readers go wrong, with the right values, through the sandbox, the command and the training loader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from three_readers import Sandbox, sandbox, training
from typer.testing import CliRunner

from media.identify import sniff
from media.types import MediaOptions
from service.cli.app import app
from service.formats.json import from_base64
from training.data.files import find_files

CASES = Path(__file__).with_name("cases")
RED, GREEN, BLUE, YELLOW = (220, 20, 20), (20, 220, 20), (20, 20, 220), (220, 220, 20)
WHITE = (255, 255, 255)
TOLERANCE = 4  # of codecs


@dataclass(frozen=True)
class Case:
    """The right reading of a file.

    Args:
        frames, height, width: of what is kept with `options`.
        quadrants: colours of the first frame from left to right and from top to bottom, one for all if all are equal.
        fps: of a clip, None for a picture.
        options: how the service and the command are asked.
        firsts: one colour for each frame, where frames differ.
        trains: the training loader takes it for what `options` ask for.
    """

    frames: int
    height: int
    width: int
    quadrants: tuple[tuple[int, int, int], ...] = ()
    fps: float | None = 25.0
    options: dict[str, Any] = field(default_factory=dict)
    firsts: tuple[tuple[int, int, int], ...] = ()
    trains: bool = True


ANIMATED = {"animated": True}
PRIMARIES = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
TURNED = (BLUE, RED, YELLOW, GREEN)
READ = {
    "hflip.mp4": Case(10, 96, 128, (GREEN, RED, YELLOW, BLUE)),
    "transpose.mp4": Case(10, 128, 96, (RED, BLUE, GREEN, YELLOW)),
    "br_F4V.mp4": Case(10, 96, 128, (RED, GREEN, BLUE, YELLOW)),
    "nokey10.mkv": Case(17, 96, 128, options={"frames": 17}),
    "opengop_cut.mkv": Case(60, 96, 128),
    "bf_fromavi.mkv": Case(100, 96, 128, fps=25.13),
    "sar21.mp4": Case(20, 96, 256),
    "gst.webm": Case(20, 96, 128),
    "gst.mkv": Case(20, 96, 128),
    "mp4v.mp4": Case(20, 96, 128),
    "ucf_xvid.avi": Case(20, 96, 128),
    "hd_untagged.mp4": Case(20, 720, 1280, ((27, 140, 194),)),
    # Luma 466, chroma 663 and 300 of ten bits, by the formulas of BT.2100, BT.2390 and sRGB.
    "pq.mp4": Case(20, 240, 320, ((0, 104, 255),)),
    "alpha.webm": Case(10, 64, 64, (WHITE,), fps=10.0),
    "long150s.mp4": Case(10, 48, 64, fps=5.0, options={"frames": 17, "end_s": 2.0}, trains=False),
    "gif10.gif": Case(3, 48, 64, fps=10.0, options=ANIMATED, firsts=PRIMARIES),
    "apng_default.png": Case(3, 48, 64, fps=5.0, options=ANIMATED, firsts=PRIMARIES, trains=False),
    "animex.webp": Case(2, 128, 96, TURNED, fps=10.0, options=ANIMATED, trains=False),
    "stereo.mpo.jpg": Case(1, 96, 128, ((200, 10, 12),), fps=None, options=ANIMATED),
    "p3.png": Case(1, 64, 64, ((0, 205, 0),), fps=None),
    "lalin.png": Case(1, 64, 64, ((188, 188, 188),), fps=None),
    "g16trns.png": Case(1, 64, 64, (WHITE, (192, 192, 192)) * 2, fps=None),
    "g2trns.png": Case(1, 64, 64, fps=None),
    "no_eoi.jpg": Case(1, 240, 320, fps=None),
}
# The same animations as a picture, which is also what the training loader takes these names for.
STILLS = {
    "apng_default.png": Case(1, 48, 64, ((9, 9, 9),), fps=None),
    "animex.webp": Case(1, 128, 96, TURNED, fps=None),
}
CODES = {"cover.mp4": "no-video-stream", "lfs.ckpt": "unsupported-media-type", "html.ckpt": "unsupported-media-type"}
REFUSED = {
    "cover.mp4": "holds no video stream; it holds audio and cover pictures",
    "lfs.ckpt": "is a Git LFS pointer, not the file",
    "html.ckpt": "is a text in HTML",
}
TABLE = [*READ.items(), *STILLS.items()]
IDS = [f"{name}-{'clip' if case.fps else 'picture'}" for name, case in TABLE]


@pytest.fixture(scope="module")
def service() -> Iterator[Sandbox]:
    with sandbox() as started:
        yield started


def inspect(path: Path, options: dict[str, Any], folder: Path) -> NDArray[np.uint8]:
    """Run `omnitok inspect` and load its array."""
    flags = [f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}") for name, value in options.items()]
    CliRunner().invoke(app, ["inspect", str(path), "--out", str(folder), *flags], catch_exceptions=False)
    return np.load(folder / f"{path.name}.npy")


def check_colours(case: Case, frames: NDArray[np.uint8]) -> None:
    height, width = frames.shape[1:3]
    for index, colour in enumerate(case.firsts):
        assert np.abs(frames[index].astype(int) - colour).max() <= TOLERANCE
    places = [(row, column) for row in (height // 4, 3 * height // 4) for column in (width // 4, 3 * width // 4)]
    if len(case.quadrants) == 1:
        assert np.abs(frames.astype(int) - case.quadrants[0]).max() <= TOLERANCE
    elif case.quadrants:
        shown = [frames[0, row, column].astype(int) for row, column in places]
        assert np.abs(np.array(shown) - case.quadrants).max() <= TOLERANCE


def test_the_table_has_every_file() -> None:
    assert {path.name for path in CASES.iterdir()} == {*READ, *REFUSED, "b1.json"}


@pytest.mark.parametrize(("name", "case"), TABLE, ids=IDS)
def test_the_service_reads_the_right_values(service: Sandbox, name: str, case: Case) -> None:
    read = service.read((CASES / name).read_bytes(), MediaOptions(**case.options))
    assert read.pixels.shape == (case.frames, case.height, case.width, 3)
    assert read.is_video == (case.fps is not None)
    assert read.source.kept_fps == (None if case.fps is None else pytest.approx(case.fps, abs=0.01))
    assert (read.source.height, read.source.width) == (case.height, case.width)
    check_colours(case, read.pixels)


@pytest.mark.parametrize(("name", "case"), TABLE, ids=IDS)
def test_the_command_reads_what_the_service_reads(service: Sandbox, tmp_path: Path, name: str, case: Case) -> None:
    made = inspect(CASES / name, case.options, tmp_path)
    check_colours(case, made)
    assert np.array_equal(made, service.read((CASES / name).read_bytes(), MediaOptions(**case.options)).pixels)


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, case) for name, case in TABLE if case.trains],
    ids=[name for name, case in TABLE if case.trains],
)
def test_the_training_loader_reads_the_middle_of_it(service: Sandbox, name: str, case: Case) -> None:
    side = min(case.height, case.width)
    made = training(CASES / name, side, case.frames)
    check_colours(case, made)
    options = MediaOptions(**case.options | {"size": (side, side)})
    assert np.array_equal(made, service.read((CASES / name).read_bytes(), options).pixels)


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_the_file_is(service: Sandbox, tmp_path: Path, name: str) -> None:
    with pytest.raises(Exception, match=REFUSED[name]) as caught:
        service.read((CASES / name).read_bytes(), MediaOptions())
    assert caught.value.code == CODES[name]  # type: ignore[attr-defined]
    run = CliRunner().invoke(app, ["inspect", str(CASES / name), "--out", str(tmp_path)])
    assert run.exit_code == 1
    assert REFUSED[name] in run.output.replace("\n", " ")
    if sniff((CASES / name).read_bytes()) is None:
        found = find_files(CASES / name)
        assert (found.images, found.clips) == (None, None)
    else:
        with pytest.raises(Exception, match=REFUSED[name]):
            training(CASES / name, 64, 5)


def test_transparency_of_shallow_greys(service: Sandbox) -> None:
    """The second of the four greys is the transparent one."""
    (frame,) = service.read((CASES / "g2trns.png").read_bytes(), MediaOptions()).pixels
    greys, counts = np.unique(frame, return_counts=True)
    assert dict(zip(greys.tolist(), (counts / counts.sum()).tolist(), strict=True)) == {0: 0.25, 170: 0.25, 255: 0.5}


def test_a_jpeg_without_its_end_has_all_its_rows(service: Sandbox) -> None:
    data = (CASES / "no_eoi.jpg").read_bytes()
    cut, whole = (service.read(file, MediaOptions()).pixels for file in (data, data + b"\xff\xd9"))
    assert np.array_equal(cut, whole)


def test_base64_with_a_prefix_is_a_picture(service: Sandbox) -> None:
    body = json.loads((CASES / "b1.json").read_text())
    options = MediaOptions(size=(body["options"]["size"],) * 2)
    assert service.read(bytes(from_base64(body["media"], "media")), options).pixels.shape == (1, 64, 64, 3)
