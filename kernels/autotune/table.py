"""Tiles by GPU, launch, dtype and rows; never searched while serving.

`configs/<gpu>.json` holds what was fastest on that GPU, as `omnitok tune` writes it; of a launch that it does not know,
a GPU with the same multiprocessors may; else the tile written beside the launch is used, which runs anywhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

FOLDER = Path(__file__).parent / "configs"
KIN = {"h200": "h100", "h100": "h200"}  # the same multiprocessors

TileT = TypeVar("TileT")
Table = dict[str, list[dict[str, Any]]]  # launch to entries of dtype, most rows and tile


@dataclass(frozen=True)
class Size:
    """A call of the network that launches are tuned for.

    Args:
        batch, frames, height, width: of the latent grid.
        channels, heads: width of the network, and heads of attention.
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
        """Positions of the latent grid."""
        return self.batch * self.frames * self.height * self.width

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.channels // self.heads


@dataclass(frozen=True)
class Trial(Generic[TileT]):
    """One call that can be run with any tile.

    Args:
        dtype, rows: as the launch looks its tile up.
        default: the tile where no table knows better; its result is right.
        run: launches with a tile on inputs of its own and returns what was computed, a tensor or a tuple of them.
    """

    dtype: torch.dtype
    rows: int
    default: TileT
    run: Callable[[TileT], Any]


@dataclass(frozen=True)
class Search(Generic[TileT]):
    """The parameters that `omnitok tune` varies in one launch; each `launch.py` offers its own as `SEARCHES`.

    Args:
        name: in the tables, "<operator>" or "<operator>.<launch>".
        candidates: tiles beside the default.
        make: draws the inputs of a call in a dtype on a device; None where a call of that size does not launch this.
    """

    name: str
    candidates: tuple[TileT, ...]
    make: Callable[[Size, torch.dtype, torch.device], Trial[TileT] | None]


def tuned(name: str, dtype: torch.dtype, rows: int, default: TileT) -> TileT:
    """The tile for a launch: that of the smallest recorded number of rows which is not below `rows`, else the largest.

    Args:
        name: in the table, such as "window_attention.forward".
        dtype: of the main input.
        rows: rows, tokens or vectors of the call.
        default: a frozen dataclass; used where nothing is recorded.
    """
    return _chosen(present_gpu(), name, dtype, rows, default)


@lru_cache(maxsize=4096)
def _chosen(gpu: str | None, name: str, dtype: torch.dtype, rows: int, default: TileT) -> TileT:
    found = _recorded(gpu, name, dtype_name(dtype))
    if not found:
        return default
    chosen = next((tile for most, tile in found if most >= rows), found[-1][1])
    return type(default)(**chosen)


@cache
def present_gpu() -> str | None:
    """Stem of the present GPU's table, or None without one."""
    return gpu_stem(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def gpu_stem(name: str) -> str:
    """Stem of a GPU's table: "h100" for an "NVIDIA H100 80GB HBM3", "a100" for an "NVIDIA A100-SXM4-80GB"."""
    words = name.lower().replace("-", " ").replace("/", " ").split()
    return next((word for word in words if any(sign.isdigit() for sign in word)), "-".join(words))


def dtype_name(dtype: torch.dtype) -> str:
    """As it stands in a table: "bfloat16"."""
    return str(dtype).removeprefix("torch.")


@cache
def _recorded(gpu: str | None, name: str, dtype: str) -> list[tuple[int, dict[str, Any]]]:
    """Most rows and tile of what the first table that knows the launch says of it, in order of rows."""
    for stem in (gpu, KIN.get(gpu or "")):
        path = FOLDER / f"{stem}.json"
        lines = read_table(path).get(name, []) if stem and path.is_file() else []
        if found := [(line["rows"], line["tile"]) for line in lines if line["dtype"] == dtype]:
            return sorted(found, key=lambda line: line[0])
    return []


def read_table(path: Path) -> Table:
    """Tiles of a file that `write_table` wrote."""
    table: Table = json.loads(path.read_text(encoding="utf-8"))["tiles"]
    return table


def write_table(path: Path, gpu: str, versions: dict[str, str], table: Table) -> None:
    """Write a file of tiles, whole or not at all: sorted, an entry a line.

    Args:
        path: its folder is made.
        gpu: name of the GPU that they were found on.
        versions: of what compiled them.
        table: what was found.
    """
    launches = []
    for name, entries in sorted(table.items()):
        ordered = sorted(entries, key=lambda entry: (entry["dtype"], entry["rows"]))
        lines = ",\n".join(f"   {json.dumps(entry)}" for entry in ordered)
        launches.append(f"  {json.dumps(name)}: [\n{lines}\n  ]")
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in {"gpu": gpu, **versions}.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        written.write_text("{\n" + head + ' "tiles": {\n' + ",\n".join(launches) + "\n }\n}\n", encoding="utf-8")
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def entry(dtype: torch.dtype, rows: int, tile: Any) -> dict[str, Any]:
    """A line of a table."""
    return {"dtype": dtype_name(dtype), "rows": rows, "tile": asdict(tile)}
