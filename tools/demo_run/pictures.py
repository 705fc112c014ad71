"""Draws the pictures of README.md and docs anew from the bundles: `python -m tools.demo_run.pictures`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.codecs import decode, largest_within
from model.bundle import load_bundle, load_generator
from model.tokenizer.tokenizer import OmniTokenizer
from training.data import open_set
from training.generator.sampling import Sampler
from training.pictures import contact_sheet, write_image

Pixels = NDArray[np.uint8]
STAGES = ("demo-vq", "demo-vq-sharp", "demo-vae")  # long, sharp, kl
CROP, CROP_BYTES = 256, 6_656
WEBP = {"quality": 85, "method": 6}


@torch.inference_mode()
def shown(tokenizer: OmniTokenizer, items: Pixels) -> Pixels:
    """Return reconstructions, one by one."""
    return np.concatenate([tokenizer.reconstruct(torch.from_numpy(item[None])).numpy() for item in items])


def spread(pixels: torch.Tensor, count: int) -> Pixels:
    """Return so many items, evenly spread."""
    return pixels[np.linspace(0, len(pixels) - 1, count).round().astype(int)].numpy()


def middle(pictures: Pixels) -> Pixels:
    """Return the middle crops at full size."""
    start = (pictures.shape[1] - CROP) // 2
    return pictures[:, start : start + CROP, start : start + CROP]


def stages(bundles: Path, former: Sequence[Path], data: Path, images: Path) -> None:
    """Draw held-out items over what each stage makes of them."""
    loaded = [load_bundle(bundles / name).tokenizer for name in STAGES if (bundles / name).is_dir()]
    photographs = spread(open_set(data / "held-out/photographs-256").pixels(), 6)
    rows = [photographs, *(shown(one, photographs) for one in loaded)]
    write_image(contact_sheet(*(row[:, 0] for row in rows)), images / "stages-photographs.webp", **WEBP)
    clips = spread(open_set(data / "held-out/camera-128").pixels(), 2)
    made = [clips, *(shown(one, clips) for one in loaded)]
    frames = np.linspace(0, clips.shape[1] - 1, 6).round().astype(int)
    sheet = contact_sheet(*(row[clip][frames] for clip in range(len(clips)) for row in made))
    write_image(sheet, images / "stages-camera.webp", **WEBP)
    large = spread(open_set(data / "held-out/photographs-512").pixels(), 3)
    others = [decode_all(large[:, 0], codec) for codec in ("JPEG", "AVIF")]
    before = [load_bundle(path).tokenizer for path in former]
    columns = [
        large[:, 0],
        *others,
        *(shown(one, large)[:, 0] for one in [*before[:1], *loaded[:2], *before[1:], *loaded[2:]]),
    ]
    write_image(contact_sheet(*(middle(column) for column in columns)), images / "stages-crops.webp", **WEBP)


def decode_all(pictures: Pixels, codec: str) -> Pixels:
    """Return pictures as a codec keeps them in the bytes of their codes."""
    return np.stack([decode(largest_within(picture, codec, CROP_BYTES)) for picture in pictures])


def generated(bundles: Path, name: str, tokenizer: str, images: Path, stem: str, clip_classes: Sequence[str]) -> None:
    """Draw four samples of each class with seed 7, and every second frame of a clip of some classes."""
    generator, decoder = load_generator(bundles / name), load_bundle(bundles / tokenizer).tokenizer
    sampler, classes = Sampler(generator.generator), generator.classes
    labels = [label for label in range(len(classes)) for _ in range(4)]
    pixels = np.concatenate(list(sampler.pixels(decoder, labels, 1, 7)))[:, 0]
    write_image(contact_sheet(*np.split(pixels, len(pixels) // 8)), images / f"{stem}-images.webp", **WEBP)
    chosen = [classes.index(one) for one in clip_classes]
    clips = np.concatenate(list(sampler.pixels(decoder, chosen, generator.config.grid[0], 7)))[:, ::2]
    write_image(contact_sheet(*clips), images / f"{stem}-clips.webp", **WEBP)


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundles", type=Path, default=Path("bundles"))
    parser.add_argument("--former", type=Path, nargs=2, help="demo-vq and demo-vae of before")
    parser.add_argument("--data", type=Path, default=Path("data/demo"))
    parser.add_argument("--evaluations", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--records", type=Path, default=Path("build/demo_run/records"))
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    images, bundles = arguments.images, arguments.bundles
    copies = {
        "held-out-photographs.webp": arguments.evaluations / "demo-vq/photographs-128.png",
        "held-out-clip.webp": arguments.evaluations / "demo-vq/camera-128.png",
        "psnr-by-resolution.png": arguments.evaluations / "demo-vq/sweep/psnr-by-resolution.png",
        "psnr-by-frame.png": arguments.evaluations / "demo-vq/sweep/psnr-by-frame.png",
        "demo-lm-neighbours.webp": arguments.records / "runs/lm-demo/evaluation/images-neighbours.png",
        "demo-latte-neighbours.webp": arguments.records / "runs/latte-demo/evaluation/images-neighbours.png",
    }
    for name, path in copies.items():
        if path.is_file():
            with Image.open(path) as picture:
                write_image(picture.convert("RGB"), images / name, **(WEBP if name.endswith("webp") else {}))
        else:
            print(f"{images / name} is as it was: {path} is missing")
    stages(bundles, arguments.former or (), arguments.data, images)
    for name, tokenizer, stem, clips in (
        ("demo-lm", "demo-vq", "generated", ("bigfish", "leaper")),
        ("demo-latte", "demo-vae", "generated-latte", ("bigfish", "leaper", "plunder", "coinrun")),
    ):
        generated(bundles, name, tokenizer, images, stem, clips)


if __name__ == "__main__":
    main()
