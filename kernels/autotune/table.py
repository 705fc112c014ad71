"""Tables of tiles by GPU, launch, dtype and rows; nothing is searched while serving.

`configs/<gpu>.json` holds the fastest tiles on that GPU, as `omnitok tune` writes them. A launch that it lacks uses the
table of a GPU with the same multiprocessors, and then the launch's default, which runs anywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch

CONFIG_DIR = Path(__file__).parent / "configs"
SAME_SM_GPUS = {"h200": "h100", "h100": "h200"}

TileT = TypeVar("TileT")
Table = dict[str, list[dict[str, Any]]]  # launch to entries of dtype, largest number of rows, and tile


@dataclass(frozen=True)
class ProblemSize:
    """The sizes of a network call for which launches are tuned.

    Args:
        batch, frames, height, width: the latent grid.
        channels, heads: of the network.
        hidden: width between the two products of the feed-forward, padded.
        patch, temporal_patch: pixels and frames of a patch.
        window: side of an attention window.
        codes, code_dim: of the codebook.
    """

    batch: int
    frames: int
    height: int
    width: int
    channels: int = 512
    heads: int = 8
    hidden: int = 1408
    patch: int = 8
    temporal_patch: int = 4
    window: int = 8
    codes: int = 8192
    code_dim: int = 8

    @property
    def rows(self) -> int:
        """Return the positions of the latent grid."""
        return self.batch * self.frames * self.height * self.width

    @property
    def head_dim(self) -> int:
        """Return the channels of a head."""
        return self.channels // self.heads


@dataclass(frozen=True)
class RowTile:
    """Rows and warps of a program, the tile of kernels that work row by row."""

    rows: int
    warps: int


@dataclass(frozen=True)
class TuningSpace(Generic[TileT]):
    """The tiles that `omnitok tune` tries for one launch; each `launch.py` lists its own as `TUNING_SPACES`.

    Args:
        name: key in the tables, "<operator>" or "<operator>.<launch>".
        candidates: tiles other than the default.
        draw: draws the arguments of a call; None where the network makes no call of that size.
        launch: returns a tensor or a tuple of them. A size at which it does not look its tile up is not tuned.
    """

    name: str
    candidates: tuple[TileT, ...]
    draw: Callable[[ProblemSize, torch.dtype, torch.device], tuple[Any, ...] | None]
    launch: Callable[..., Any]


class Lookup(NamedTuple):
    """One look-up of a tile: its key, and the tile without a table, whose result is correct by definition."""

    dtype: torch.dtype
    rows: int
    default: Any


_in_use: dict[str, tuple[Any, list[Lookup]]] = {}


@contextmanager
def use_tile(name: str, tile: Any = None) -> Iterator[list[Lookup]]:
    """Run a launch with one tile, by default its default, whatever the tables hold; yield its look-ups."""
    lookups: list[Lookup] = []
    _in_use[name] = tile, lookups
    try:
        yield lookups
    finally:
        del _in_use[name]


def tuned_tile(name: str, dtype: torch.dtype, rows: int, default: TileT) -> TileT:
    """Return the tile recorded for the smallest number of rows that is at least `rows`, else for the largest.

    Args:
        name: of the launch, such as "window_attention.forward".
        dtype: of the main input.
        rows: rows, tokens or vectors of the call.
        default: a frozen dataclass, returned where the tables lack the launch.
    """
    if name in _in_use:
        tile, lookups = _in_use[name]
        lookups.append(Lookup(dtype, rows, default))
        return default if tile is None else tile
    return _lookup(current_gpu(), name, dtype, rows, default)


@lru_cache(maxsize=4096)
def _lookup(gpu: str | None, name: str, dtype: torch.dtype, rows: int, default: TileT) -> TileT:
    entries = _entries(gpu, name, dtype_name(dtype))
    if not entries:
        return default
    tile = next((tile for max_rows, tile in entries if max_rows >= rows), entries[-1][1])
    return type(default)(**tile)


@cache
def current_gpu() -> str | None:
    """Return the stem of the present GPU's table, or None without a GPU."""
    return gpu_stem(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def gpu_stem(name: str) -> str:
    """Return the stem of a GPU's table, such as "h100" for an "NVIDIA H100 80GB HBM3"."""
    words = name.lower().replace("-", " ").replace("/", " ").split()
    return next((word for word in words if any(sign.isdigit() for sign in word)), "-".join(words))


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name in tables, such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


@cache
def _entries(gpu: str | None, name: str, dtype: str) -> list[tuple[int, dict[str, Any]]]:
    """Return (largest number of rows, tile) of a launch in order of rows, from the first table that has it."""
    for stem in (gpu, SAME_SM_GPUS.get(gpu or "")):
        path = CONFIG_DIR / f"{stem}.json"
        lines = read_table(path).get(name, []) if stem and path.is_file() else []
        if found := [(line["rows"], line["tile"]) for line in lines if line["dtype"] == dtype]:
            return sorted(found, key=lambda line: line[0])
    return []


def read_table(path: Path) -> Table:
    """Read the tiles of a file that `write_table` wrote."""
    table: Table = json.loads(path.read_text(encoding="utf-8"))["tiles"]
    return table


def write_table(path: Path, gpu: str, versions: dict[str, str], table: Table) -> None:
    """Write a file of tiles atomically: sorted, one entry a line.

    Args:
        path: its folder is created.
        gpu: name of the GPU on which they were found.
        versions: of torch and triton.
        table: the tiles.
    """
    launches = []
    for name, entries in sorted(table.items()):
        ordered = sorted(entries, key=lambda entry: (entry["dtype"], entry["rows"]))
        lines = ",\n".join(f"   {json.dumps(entry)}" for entry in ordered)
        launches.append(f"  {json.dumps(name)}: [\n{lines}\n  ]")
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in {"gpu": gpu, **versions}.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write("{\n" + head + ' "tiles": {\n' + ",\n".join(launches) + "\n }\n}\n")
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave an empty table, which no launch could read
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def table_entry(dtype: torch.dtype, rows: int, tile: Any) -> dict[str, Any]:
    """Return one entry of a table."""
    return {"dtype": dtype_name(dtype), "rows": rows, "tile": asdict(tile)}
