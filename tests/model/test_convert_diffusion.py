"""Conversion of diffusion models refuses files that hold something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from golden_models import GOLDEN
from torch import Tensor

from model.convert.diffusion import build_diffusion, read_sizes
from model.convert.published import ConversionError
from model.convert.safe_load import read_checkpoint


@pytest.fixture
def state() -> dict[str, Any]:
    return dict(read_checkpoint(GOLDEN / "latte.pt")["ema"])


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("x_embedder.proj.weight", lambda value: value[:0], "It lacks the tensor x_embedder.proj.weight"),
        ("x_embedder.proj.weight", lambda value: value[0], "It lacks the tensor x_embedder.proj.weight"),
        ("blocks.0.mlp.fc1.weight", lambda value: None, "It lacks the tensor blocks.0.mlp.fc1.weight"),
        ("temp_embed", lambda value: value[:0], "It lacks the tensor temp_embed"),
        ("temp_embed", lambda value: value.repeat(2, 1, 1), "temp_embed must be positions of shape"),
        ("pos_embed", lambda value: value + 1, "pos_embed holds other positions"),
        ("pos_embed", lambda value: value * torch.nan, "pos_embed holds other positions"),
        ("final_layer.adaLN_modulation.1.weight", lambda value: value[:, :-1], "differ in width"),
        ("final_layer.linear.bias", lambda value: value[:-1], "do not fit the config"),
    ],
)
def test_tensors_that_fit_no_model_are_refused(
    state: dict[str, Any], key: str, change: Callable[[Tensor], Any], message: str
) -> None:
    with pytest.raises(ConversionError, match=message):
        build_diffusion(state | {key: change(state[key])}, heads=4)


def test_unknown_and_missing_tensors_are_named(state: dict[str, Any]) -> None:
    with pytest.raises(ConversionError, match=r"unknown keys: blocks\.0\.extra\.weight"):
        build_diffusion(state | {"blocks.0.extra.weight": torch.ones(1)})
    del state["blocks.1.adaLN_modulation.1.bias"]
    with pytest.raises(ConversionError, match=r"missing: blocks\.1\.adaLN_modulation\.1\.bias"):
        build_diffusion(state)


def test_heads_are_given_where_no_released_kind_has_the_width(state: dict[str, Any]) -> None:
    state["x_embedder.proj.weight"] = torch.ones(40, *state["x_embedder.proj.weight"].shape[1:])
    with pytest.raises(ConversionError, match="give them for a width of 40"):
        read_sizes(state, None)
    assert read_sizes(state, 10).heads == 10


def test_released_models_of_clips_make_no_images(state: dict[str, Any]) -> None:
    assert not read_sizes(state, 4).images, "they were trained on clips alone"
    image = dict(read_checkpoint(GOLDEN / "dit.pt")["ema"])
    assert read_sizes(image, 4).images
