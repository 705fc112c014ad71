"""Weights into a tokenizer, checked before any memory is taken for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.tokenizer.config import TokenizerConfig
from model.tokenizer.tokenizer import OmniTokenizer


class WeightsError(ValueError):
    """Tensors that are not those of a config."""


def build_tokenizer(config: TokenizerConfig, weights: Mapping[str, Tensor]) -> OmniTokenizer:
    """Build a tokenizer with these weights, in float32 and evaluation mode.

    Args:
        config: the geometry.
        weights: tensors by the names of `OmniTokenizer.state_dict()`.

    Raises:
        WeightsError: names are missing or left over, or a shape or type does not fit; all of them are listed.
    """
    with torch.device("meta"):  # shapes alone: a config may describe more than this machine holds
        wanted = {name: value.shape for name, value in OmniTokenizer(config).state_dict().items()}
    if missing := sorted(wanted.keys() - weights.keys()):
        raise WeightsError(f"{len(missing)} tensors are missing: {', '.join(missing)}")
    if extra := sorted(weights.keys() - wanted.keys()):
        raise WeightsError(
            f"{len(extra)} tensors belong to layers that the config does not describe: {', '.join(extra)}"
        )
    wrong = [
        f"{name} is {weights[name].dtype} {tuple(weights[name].shape)}, not {tuple(shape)}"
        for name, shape in wanted.items()
        if weights[name].shape != shape or not weights[name].is_floating_point()
    ]
    if wrong:
        raise WeightsError(f"{len(wrong)} tensors do not fit the config: {'; '.join(wrong)}")
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise WeightsError(f"{len(broken)} tensors hold infinities or NaN: {', '.join(broken)}")
    tokenizer = OmniTokenizer(config)
    tokenizer.load_state_dict(dict(weights))
    return tokenizer.eval().requires_grad_(False)
