"""Tiles found by `omnitok tune`, by GPU, operator, dtype and rows; never searched while serving.

`configs/<gpu>.json` holds what a search on that GPU found, `configs/default.json` what is safe anywhere; where neither
knows an operator, the tile written beside its launch is used.
"""

from __future__ import annotations

import json
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

FOLDER = Path(__file__).parent / "configs"
DEFAULT = "default"

TileT = TypeVar("TileT")


def tuned(operator: str, dtype: torch.dtype, rows: int, default: TileT) -> TileT:
    """The tile for a launch: that of the smallest recorded number of rows which is not below `rows`, else the largest.

    Args:
        operator: name in the table, such as "window_attention.forward".
        dtype: of the main input.
        rows: rows, tokens or vectors of the call.
        default: a frozen dataclass; used where nothing is recorded.
    """
    found = _recorded(_gpu(), operator, str(dtype).removeprefix("torch."))
    if not found:
        return default
    chosen = next((tile for most, tile in found if most >= rows), found[-1][1])
    return type(default)(**{name: chosen[name] for name in (field.name for field in fields(default))})  # type: ignore[arg-type]


@cache
def _gpu() -> str:
    """Stem of this GPU's file: "h100" for an "NVIDIA H100 80GB HBM3"."""
    if not torch.cuda.is_available():
        return DEFAULT
    words = torch.cuda.get_device_name().lower().split()
    return next((word for word in words if (FOLDER / f"{word}.json").is_file()), DEFAULT)


@cache
def _recorded(gpu: str, operator: str, dtype: str) -> list[tuple[int, dict[str, Any]]]:
    path = FOLDER / f"{gpu}.json"
    if not path.is_file():
        return []
    entries = json.loads(path.read_text(encoding="utf-8"))["tiles"].get(operator, [])
    return sorted((entry["rows"], entry["tile"]) for entry in entries if entry["dtype"] == dtype)
