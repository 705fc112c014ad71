"""The checkpoint of a stage: one file that holds everything which the rest of the stage depends on.

There is no random state in it: every draw follows from the seed, the step and the counters of items, which are.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from model.atomic_write import replacing
from training.errors import TrainingError, one_line
from training.recipes import rename_settings

FORMAT = "omnitok-training/4"
CHECKPOINT_FILE = "checkpoint.pt"
KEYS = frozenset({"format", "recipe", "stage", "budget", "step", "seconds", "ranks", "drawn", "history"})


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name first, so that the last one stays whole until this one is.

    Args:
        folder: of the stage.
        state: everything but the format.

    Raises:
        TrainingError: the file cannot be written, as on a full disk; the last checkpoint is whole.
    """
    try:
        with replacing(folder / CHECKPOINT_FILE) as fresh, fresh.open("wb") as file:
            torch.save({"format": FORMAT} | state, file)
    except (OSError, RuntimeError) as error:
        free = shutil.disk_usage(folder).free / 1e6
        raise TrainingError(
            f"{folder} takes no checkpoint ({free:,.0f} MB are free there), the last one is whole: {one_line(error)}"
        ) from error


def read_checkpoint(folder: Path, recipe: dict[str, Any], stage: str, state_keys: frozenset[str]) -> dict[str, Any]:
    """Read the checkpoint of a stage, onto the CPU.

    Args:
        folder: of the stage.
        recipe: which must have written it, as `Recipe.to_dict` gives it.
        stage: name of the stage, likewise.
        state_keys: of the step's own part.

    Raises:
        TrainingError: there is none, it is damaged, or it belongs to another format, recipe or stage.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        raise TrainingError(f"{path}: there is no checkpoint to resume from.")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state.get("format") == "omnitok-training/3":
            state = _upgrade(state)
        found = state.get("format")
    except Exception as error:  # a damaged file fails in many ways
        raise TrainingError(f"{path} is not a whole checkpoint: {error}".splitlines()[0]) from error
    if found != FORMAT:
        raise TrainingError(f"{path} has the format {found!r}, not {FORMAT!r}.")
    if wrong := set(state) ^ (KEYS | state_keys):
        raise TrainingError(f"{path} is not a whole checkpoint: keys {sorted(wrong)} are wrong.")
    if state["stage"] != stage:
        raise TrainingError(f"{path} belongs to stage {state['stage']!r}, not {stage!r}.")
    state["recipe"] = rename_settings(state["recipe"])
    if state["recipe"] != recipe:
        raise TrainingError(
            f"{path} was written by another recipe, which differs in {_differences(state['recipe'], recipe)}."
        )
    return state


def _upgrade(state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of format 3 under the names of format 4."""
    names = {"plain": "unquantized_steps", "started": "codebook_initialized", "learner": "state"}
    renamed = {names.get(name, name): value for name, value in state.items()}
    tensors = {{"average": "ema"}.get(name, name): value for name, value in renamed["state"].items()}
    return renamed | {"format": FORMAT, "state": tensors}


def _differences(old: Any, new: Any, path: str = "") -> str:
    """Name the settings in which two recipes differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        parts = [_differences(old.get(key), new.get(key), f"{path}.{key}" if path else key) for key in keys]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = [_differences(a, b, f"{path}[{index}]") for index, (a, b) in enumerate(zip(old, new, strict=True))]
    else:
        return "" if old == new else f"{path} ({old!r}, now {new!r})"
    return ", ".join(part for part in parts if part)
