"""A handful of real files for the debug recipe: crops and windows of the repository's sample media."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from media.reader import open_frames
from media.types import MediaOptions
from media.write import encode_video
from model.atomic_write import replace_file
from training.errors import TrainingError
from training.pictures import write_image

SAMPLES = Path(__file__).parents[2] / "docs" / "samples"
SIDE = 96  # pixels of an image
CORNERS = {"snow": ((0, 120), (112, 135), (224, 135)), "sky": ((0, 0), (112, 0), (224, 0))}  # left, top
WINDOW, STEP = 21, 6  # frames of a clip, and between the starts of two
CLIP_SIZE = (64, 80)  # height, width
CLIP_FPS = 12


def build_debug(out: Path, samples: Path = SAMPLES) -> None:
    """Write `images/CLASS/*` in two formats and `clips/CLASS/*.mp4`: 12 images, 6 clips.

    Args:
        out: folder of the data.
        samples: holds `igloo.jpg`, `igloo.png` and `flight.mp4`.

    Raises:
        TrainingError: the samples are not there.
    """
    if missing := [name for name in ("igloo.jpg", "igloo.png", "flight.mp4") if not (samples / name).is_file()]:
        raise TrainingError(
            f"{samples} lacks {', '.join(missing)}: the debug data is made in a checkout of the project."
        )
    for suffix in ("jpg", "png"):
        with Image.open(samples / f"igloo.{suffix}") as picture:
            for name, corners in CORNERS.items():
                for number, (left, top) in enumerate(corners):
                    crop = picture.crop((left, top, left + SIDE, top + SIDE))
                    write_image(crop, out / "images" / name / f"{number}.{suffix}")
    with (samples / "flight.mp4").open("rb") as file:
        frames = list(open_frames(file, None, MediaOptions(size=CLIP_SIZE)))
    for number, start in enumerate(range(0, len(frames) - WINDOW + 1, STEP)):
        window = frames[start : start + WINDOW]
        for name, shown in (("forward", window), ("backward", window[::-1])):
            path = out / "clips" / name / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, encode_video(shown, "video/mp4", CLIP_FPS))
