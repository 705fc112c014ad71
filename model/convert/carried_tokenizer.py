"""The tokenizer that a published language model's file carries, without its flags."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from model.convert.omnitokenizer import ADDITIVE_BIAS_STEM, build_tokenizer
from model.convert.published import ConversionError
from model.tokenizer.tokenizer import OmniTokenizer

PREFIX = "first_stage_model."
_SPATIAL, _TEMPORAL = "encoder.enc_spatial_transformer", "encoder.enc_temporal_transformer"


class Carried(NamedTuple):
    """The tokenizer in evaluation mode, its names of the published keys, and dropped keys with their reasons."""

    network: OmniTokenizer
    kept: dict[str, str]
    dropped: dict[str, str]


def carried_flags(args: Namespace, state: Mapping[str, object]) -> Namespace:
    """Return the flags of a tokenizer whose tensors a language model's file carries without them.

    The shapes give every size. Order in time follows the file's own flags where it has them, else that of the released
    models, which are all causal.

    Raises:
        ConversionError: the tensors are not those of a tokenizer.
    """
    first, later = (_matrix(state, f"encoder.to_patch_emb{kind}.2.weight") for kind in ("_first_frame", ""))
    codes = _matrix(state, "codebook.embeddings")
    scale = state.get(f"{_TEMPORAL}.layers.0.1.q_scale")
    if not isinstance(scale, Tensor) or not scale.numel():
        raise ConversionError("It lacks the scales of its temporal attention.")
    table = next((value for key, value in state.items() if key.endswith("relative_position_bias_table")), None)
    positions = len(table) if isinstance(table, Tensor) and table.dim() else 1
    relative = any(key.startswith(_SPATIAL) and "spatial_rel_pos_bias" in key for key in state)
    flags = {
        "embedding_dim": first[0],
        "heads": _matrix(state, f"{_TEMPORAL}.layers.0.1.to_q.weight")[0] // scale.numel(),
        "dim_head": scale.numel(),
        "patch_size": math.isqrt(first[1] // 3),
        "temporal_patch_size": later[1] // first[1],
        "enc_block": _blocks(state, _SPATIAL),
        "dec_block": _blocks(state, "decoder.dec_spatial_transformer"),
        "temporal_depth": len(_blocks(state, _TEMPORAL)),
        "twod_window_size": (math.isqrt(positions) + 1) // 2,
        "spatial_pos": "rel" if relative else "rope",
        "n_codes": codes[0],
        "codebook_dim": codes[1],
    }
    for name in ("in_temporal_transformer", "in_peg"):
        given = {key: value for key, value in vars(args).items() if key in (f"causal_{name}", f"casual_{name}")}
        flags |= given or {f"causal_{name}": True}
    return Namespace(**flags)


def _matrix(state: Mapping[str, object], key: str) -> tuple[int, ...]:
    value = state.get(key)
    if not isinstance(value, Tensor) or value.dim() != 2 or not value.numel():
        raise ConversionError(f"It lacks the matrix {key!r}.")
    return tuple(value.shape)


def _blocks(state: Mapping[str, object], stack: str) -> str:
    """Return a letter for each layer of a stack, as the flags spell it."""
    layers = {int(match[1]) for key in state if (match := re.match(rf"{re.escape(stack)}\.layers\.(\d{{1,4}})\.", key))}
    return "".join("t" if f"{stack}.layers.{index}.1.to_q.weight" in state else "w" for index in sorted(layers))


def carried_tokenizer(
    args: Namespace, state: Mapping[Any, object], additive_bias: bool | None = None
) -> Carried | None:
    """Return the tokenizer inside a language model's file, or None if there is none.

    Args:
        args: flags of the language model.
        state: its tensors by their published keys.
        additive_bias: whether the tokenizer was trained without fused attention; None decides by the name that the
            flags give it.

    Raises:
        ConversionError: its tensors are not those of a tokenizer.
    """
    own = {str(key).removeprefix(PREFIX): value for key, value in state.items() if str(key).startswith(PREFIX)}
    if not own:
        return None
    if additive_bias is None:
        additive_bias = Path(str(vars(args).get("vqvae"))).stem == ADDITIVE_BIAS_STEM
    try:
        return Carried(*build_tokenizer(carried_flags(args, own), own, additive_bias))
    except ConversionError as error:
        raise ConversionError(f"The tokenizer in it: {error}") from error
