"""Published DiT and Latte files to bundles: sizes, rename table, and a report of every key (docs/model.md, Files)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.bundle import check_classes, load_bundle, save_generator
from model.bundle_files import check_replaceable
from model.config_checks import ConfigError
from model.convert.published import ConversionError, ConversionReport, model_card, sort_keys
from model.generator.diffusion_config import DiffusionConfig, DiffusionDefaults
from model.generator.dit import DiT
from model.tokenizer.config import VAEConfig
from model.weights import WeightsError, build_network

# No tensor has the number of heads. Kinds S, B, L and XL, and the files of 48 channels that tests read.
HEADS_BY_WIDTH = {384: 6, 768: 12, 1024: 16, 1152: 16, 48: 4}
IMAGE_GUIDANCE_CHANNELS, CLIP_GUIDANCE_CHANNELS = 3, 4
POSITION_TOLERANCE = 1e-4
SAMPLING = DiffusionDefaults(steps=250, guidance=1.5, sampler="ddpm")

_DROPPED = ((r"pos_embed|temp_embed", "fixed positions, derived from the grid"),)
_EXACT = {
    "x_embedder.proj": "embed",
    "t_embedder.mlp.0": "condition.time_in",
    "t_embedder.mlp.2": "condition.time_out",
    "y_embedder.embedding_table": "condition.classes",
    "final_layer.linear": "out",
    "final_layer.adaLN_modulation.1": "modulation",
}
_LAYER = {"attn.qkv": "attention.qkv", "attn.proj": "attention.proj", "mlp.fc1": "expand", "mlp.fc2": "contract"}


def rename(key: str) -> str | None:
    """Return our name of a published key, or None if there is none; the modulations of all blocks share one name."""
    layer, _, kind = key.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    if layer in _EXACT:
        return f"{_EXACT[layer]}.{kind}"
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", layer):
        if match[2] == "adaLN_modulation.1":
            return f"modulation.{kind}"
        return f"blocks.{match[1]}.{_LAYER[match[2]]}.{kind}" if match[2] in _LAYER else None
    return None


def is_diffusion(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a file holds averaged weights of a DiT or a Latte."""
    state = checkpoint.get("ema")
    return isinstance(state, dict) and "x_embedder.proj.weight" in state


def read_sizes(state: Mapping[Any, object], heads: int | None) -> DiffusionConfig:
    """Return the config that the shapes of published tensors describe.

    Args:
        state: tensors by their published keys.
        heads: attention heads; None for those of the released kinds.

    Raises:
        ConversionError: a tensor is missing or has no such shape.
    """
    width, channels, patch, _ = _shape(state, "x_embedder.proj.weight", 4)
    side = math.isqrt(_shape(state, "pos_embed", 3)[1])
    frames = _shape(state, "temp_embed", 3)[1] if "temp_embed" in state else 1
    if heads is None and width not in HEADS_BY_WIDTH:
        raise ConversionError(f"The file does not state its attention heads; give them for a width of {width}.")
    try:
        return DiffusionConfig(
            layers=len({key.split(".")[1] for key in state if isinstance(key, str) and key.startswith("blocks.")}),
            width=width,
            heads=HEADS_BY_WIDTH[width] if heads is None else heads,
            grid=(frames, side * patch, side * patch),
            classes=_shape(state, "y_embedder.embedding_table.weight", 2)[0] - 1,
            patch=patch,
            channels=channels,
            mlp_ratio=_shape(state, "blocks.0.mlp.fc1.weight", 2)[0] // width,
            images=frames == 1,
            guidance_channels=IMAGE_GUIDANCE_CHANNELS if frames == 1 else CLIP_GUIDANCE_CHANNELS,
            sampling=SAMPLING,
        )
    except ConfigError as error:
        raise ConversionError(f"The tensors describe no diffusion model: {error}") from error


def build_diffusion(
    state: Mapping[Any, object], heads: int | None = None
) -> tuple[DiT, dict[str, str], dict[str, str]]:
    """Build the network of published tensors.

    Args:
        state: tensors by their published keys.
        heads: as for `read_sizes`.

    Returns:
        The network in evaluation mode, its names of the published keys, and the dropped keys with their reasons.

    Raises:
        ConversionError: unknown, missing or misshapen tensors, or positions other than the fixed ones.
    """
    config = read_sizes(state, heads)
    tensors, kept, dropped = sort_keys(state, rename, _DROPPED)
    weights = {name: tensors[key] for key, name in kept.items() if not name.startswith("modulation.")}
    if (patches := weights.get("embed.weight")) is not None:
        weights["embed.weight"] = patches.permute(0, 2, 3, 1).flatten(1)  # channels last, as latents are
    layers = [f"blocks.{index}" for index in range(config.layers)]
    for kind in ("weight", "bias"):
        keys = [f"{layer}.adaLN_modulation.1.{kind}" for layer in [*layers, "final_layer"]]
        if missing := [key for key in keys if key not in tensors]:
            raise ConversionError(f"{len(missing)} tensors are missing: {', '.join(missing)}")
        if len({tensors[key].shape[1:] for key in keys}) > 1:
            raise ConversionError(f"{', '.join(keys)} differ in width.")
        weights[f"modulation.{kind}"] = torch.cat([tensors[key] for key in keys])
    try:
        network = build_network(lambda: DiT(config), weights)
    except WeightsError as error:
        raise ConversionError(str(error)) from error
    for key, ours in (("pos_embed", network.spatial), ("temp_embed", network.temporal)):
        stored = state.get(key, ours[None])
        if not isinstance(stored, Tensor) or stored.shape != (1, *ours.shape):
            raise ConversionError(f"{key} must be positions of shape {(1, *ours.shape)}.")
        if not (stored[0] - ours).abs().max() <= POSITION_TOLERANCE:
            raise ConversionError(f"{key} holds other positions than the fixed ones of sines and cosines.")
    return network, kept, dropped


def _shape(state: Mapping[Any, object], key: str, dims: int) -> tuple[int, ...]:
    value = state.get(key)
    if not isinstance(value, Tensor) or value.dim() != dims or not value.numel():
        raise ConversionError(f"It lacks the tensor {key} of {dims} dimensions, none of them 0.")
    return tuple(value.shape)


def convert_diffusion(
    source: Path,
    checkpoint: Mapping[str, Any],
    destination: Path,
    tokenizer: Path | None = None,
    classes: Sequence[str] | None = None,
    heads: int | None = None,
) -> ConversionReport:
    """Turn a published DiT or Latte into a bundle: its averaged weights, bit for bit in float32.

    Args:
        source: the `.pt` file.
        checkpoint: its content.
        destination: the bundle's folder.
        tokenizer: bundle of the VAE tokenizer whose latents the model makes; needed.
        classes: a name for each class; None for their ids.
        heads: as for `read_sizes`.

    Raises:
        ConversionError: the file is not such a checkpoint, or the tokenizer does not fit it.
        BundleError: the destination exists and is not a bundle, the tokenizer's bundle is broken, or the names do not
            fit the classes.
    """
    if tokenizer is None:
        raise ConversionError(f"{source} carries no tokenizer; name with --tokenizer the one whose latents it makes.")
    given = load_bundle(tokenizer)
    try:
        network, kept, dropped = build_diffusion(checkpoint["ema"], heads)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}") from error
    config, head = network.config, given.config.head
    if not isinstance(head, VAEConfig) or head.dim != config.channels:
        raise ConversionError(
            f"{source} makes latents of {config.channels} channels, and {tokenizer} is not a VAE of so many."
        )
    names = [str(index) for index in range(config.classes)] if classes is None else classes
    check_classes(names, config.classes)
    check_replaceable(destination, "generator")
    card = model_card(source.name, "diffusion model", config.to_dict(), dropped)
    digest = save_generator(destination, network, card, given.hash, names)
    return ConversionReport(destination, config, digest, kept, dropped)
