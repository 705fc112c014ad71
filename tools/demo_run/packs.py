"""Packs of what the host needs besides the tree: packages of games, photographs, networks, held-out items."""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from training.data import open_set
from training.data.shards import write_info, write_shard
from training.demo_data import photographs
from training.demo_data.packages import PROCGEN, procgen_path
from training.tokenizer.validation import MAX_ITEMS

ROOT = Path(__file__).parents[2]
# Qt in the package of the games wants these of the machine, and a machine without a screen may lack them.
SCREEN_LIBRARIES = ("libGL.so.1", "libglib-2.0.so.0", "libgthread-2.0.so.0")
OF_EVERY_MACHINE = ("libc.", "libm.", "libdl.", "libpthread.", "librt.", "libgcc_s.", "libstdc++.", "linux-vdso", "ld-")
VALIDATED = {"photographs-128": "images", "photographs-256": "images", "camera-128": "clips"}
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@dataclass(frozen=True)
class Item:
    """Files that travel together.

    Args:
        group: what waits for it on the host.
        name: of the file in the pack, below the host's folder; an archive `.tar.xz` is unpacked there.
        data: its bytes.
    """

    group: str
    name: str
    data: bytes


def archive(names: Iterable[tuple[Path, str]]) -> bytes:
    """Return files as `.tar.xz`, given with their names there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=6) as file:
        for path, name in names:
            file.add(path, name, recursive=False)
    return buffer.getvalue()


def files_below(folder: Path, root: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a package that the host needs, with their names below `root`."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path, str(path.relative_to(root))


def of_python(requirement: str, folder: Path, python: str) -> Path:
    """Return a folder with a package's wheel for the host's Python."""
    if not folder.is_dir():
        platforms = [f"--platform={name}" for name in PLATFORMS]
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--only-binary=:all:"]
        command += [f"--python-version={python}", "--implementation=cp", *platforms, f"--target={folder}", requirement]
        subprocess.run(command, check=True)
    return folder


def screen_libraries() -> Iterator[tuple[Path, str]]:
    """Yield the libraries of this machine that the games' package loads, and what these load."""
    listed = subprocess.run(["ldconfig", "-p"], check=True, capture_output=True, text=True).stdout
    known = {line.split()[0]: line.split()[-1] for line in listed.splitlines()[1:] if "x86-64" in line}
    waiting, found = list(SCREEN_LIBRARIES), set[str]()
    while waiting:
        name = waiting.pop()
        if name in found or name.startswith(OF_EVERY_MACHINE):
            continue
        found.add(name)
        needed = subprocess.run(["readelf", "-d", known[name]], check=True, capture_output=True, text=True).stdout
        waiting += [line.split("[")[1].rstrip("]") for line in needed.splitlines() if "(NEEDED)" in line]
    for name in sorted(found):
        yield Path(known[name]).resolve(), f"libraries/{name}"


def games(cache: Path, other: Path, python: str) -> Item:
    """Pack Procgen, with the compiled part of cffi for the host's Python."""
    place = procgen_path(cache)
    assert place is not None, "run it where Procgen is not installed"
    (requirement,) = (one for one in PROCGEN if one.startswith("cffi"))
    native = of_python(requirement, other / f"{requirement}-{python}", python)
    own = [(path, name) for path, name in files_below(place, cache.parent) if "_cffi_backend" not in name]
    compiled = [(path, f"cache/python/procgen/{path.name}") for path in native.glob("_cffi_backend*")]
    return Item("games", "games.tar.xz", archive([*own, *compiled, *screen_libraries()]))


def walks(other: Path, python: str) -> Item:
    """Pack ViZDoom for the host's Python."""
    requirement = "vizdoom==1.3.2"
    place = of_python(requirement, other / f"{requirement}-{python}", python)
    names = [(path, f"cache/python/{requirement}/{name}") for path, name in files_below(place, place)]
    return Item("walks", "walks.tar.xz", archive(names))


def pictures(cache: Path) -> Iterator[Item]:
    """Pack the photographs that crops are cut from; PNG becomes lossless WebP of the same pixels under its old name."""
    opaque = {*photographs.scenes(cache), *photographs.scenes_of_releases(cache), *photographs.textures(cache)}
    for path in sorted(opaque | set(photographs.stamps(cache))):
        data = path.read_bytes()
        if path.suffix == ".png" and path in opaque:
            buffer = io.BytesIO()
            photographs.open_picture(path, "RGB").save(buffer, "WEBP", lossless=True, method=4)
            if buffer.tell() < len(data):
                data = buffer.getvalue()
                with Image.open(io.BytesIO(data)) as again:
                    assert np.array_equal(np.asarray(again), np.asarray(photographs.open_picture(path, "RGB"))), path
        yield Item("photographs", f"cache/{path.relative_to(cache)}", data)


def validated(data: Path, scratch: Path) -> Item:
    """Pack the held-out items that validation during training shows."""
    files = []
    for name, kind in VALIDATED.items():
        whole = open_set(data / "held-out" / name)
        step = -(-len(whole) // MAX_ITEMS[kind])
        folder = scratch / name
        write_info(folder, whole.info)
        write_shard(folder, 0, whole.pixels()[::step].numpy(), whole.labels[::step])
        files += [(path, f"data/demo/held-out/{name}/{path.name}") for path in sorted(folder.iterdir())]
    return Item("validation", "validation.tar.xz", archive(files))


def measured(data: Path) -> Item:
    """Pack the held-out items of which bundles are measured and that the host does not record."""
    folders = [data / "held-out" / name for name in VALIDATED]
    files = [
        (path, f"full/held-out/{folder.name}/{path.name}") for folder in folders for path in sorted(folder.iterdir())
    ]
    return Item("measured", "measured.tar.xz", archive(files))


def first_fit(items: Iterable[Item], most: int) -> list[list[Item]]:
    """Put each item in the first pack with room for it."""
    packs: list[list[Item]] = []
    for item in items:
        size = len(item.data) + 1024  # its header
        assert size <= most, f"{item.name} has {size / 2**20:.1f} MiB, more than a pack"
        for pack in packs:
            if sum(len(one.data) + 1024 for one in pack) + size <= most:
                pack.append(item)
                break
        else:
            packs.append([item])
    return packs


def main() -> None:
    """Write OUT/01/NAME.tar and so on; the name has the hash of the pack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("data/cache"))
    parser.add_argument("--data", type=Path, default=Path("data/demo"))
    parser.add_argument("--networks", type=Path, default=Path("data/networks"))
    parser.add_argument("--begin", type=Path, default=ROOT / "bundles/demo-vq")
    parser.add_argument("--out", type=Path, default=Path("build/demo_run"))
    parser.add_argument("--python", default="3.12", help="the host's")
    parser.add_argument("--mib", type=float, default=54, help="of a pack")
    arguments = parser.parse_args()
    cache, other = arguments.cache.resolve(), arguments.cache.resolve() / "other"
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    # in the order of need: nothing but the tree is needed to compile, and networks not before the stage `sharp`
    items = [games(cache, other, arguments.python), walks(other, arguments.python)]
    begin = sorted(path for path in arguments.begin.iterdir() if path.is_file())
    items += [Item("begin", f"begin/{path.name}", path.read_bytes()) for path in begin]
    items += [
        Item("begin", "COMMIT", commit.encode()),
        *pictures(cache),
        validated(arguments.data, other / "validated"),
    ]
    items.append(measured(arguments.data))
    networks = sorted(arguments.networks.glob("*.safetensors"))
    items += [Item("networks", f"networks/{path.name}", path.read_bytes()) for path in networks]
    packs = first_fit(items, int(arguments.mib * 2**20))
    last = {item.group: number for number, pack in enumerate(packs, start=1) for item in pack}
    for number, pack in enumerate(packs, start=1):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as file:
            whole = [group for group, at in last.items() if at == number]
            for item in [*pack, Item("", f"whole/{number:02}", "\n".join(whole).encode())]:
                info = tarfile.TarInfo(item.name)
                info.size = len(item.data)
                file.addfile(info, io.BytesIO(item.data))
        data = buffer.getvalue()
        path = arguments.out / f"{number:02}" / f"{hashlib.sha256(data).hexdigest()[:16]}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob("*.tar"):
            old.unlink()
        path.write_bytes(data)
        groups = sorted({item.group for item in pack})
        print(f"{path}  {len(data) / 2**20:.1f} MiB  {', '.join(groups)}; whole with it: {', '.join(whole) or '-'}")


if __name__ == "__main__":
    main()
