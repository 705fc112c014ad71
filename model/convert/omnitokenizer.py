"""Published tokenizer checkpoints to bundles: flags, rename table, and a report of every key (docs/model.md, Files)."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from model.bundle import save_bundle
from model.config_checks import ConfigError
from model.convert.published import (
    ConversionError,
    ConversionReport,
    args_and_state,
    check_flags,
    model_card,
    read_published,
    sort_keys,
)
from model.tokenizer.config import TokenizerConfig, VAEConfig, VQConfig
from model.tokenizer.tokenizer import OmniTokenizer
from model.weights import WeightsError, build_network

ADDITIVE_BIAS_STEM = "imagenet_only"  # the one released file whose attention ran with additive biases

# Flags that would change the computation, with the only value that the released models use.
_FIXED = {
    "patch_embed": "linear",
    "image_channels": 3,
    "defer_temporal_pool": False,
    "defer_spatial_pool": False,
    "gen_upscale": None,
    "use_external_codebook": False,
    "ff_mult": 4.0,
    "l2_code": True,
    "codebook_type": "vq",
    "logitslaplace_weight": 0.0,
}

_DROPPED = (
    (r"(image|video)_discriminator\..*", "discriminator, used in training only"),
    (r"perceptual_model\..*", "perceptual loss, used in training only"),
    (r"codebook\.(N|z_avg|codebook_usage)", "moving average of the codebook, used in training only"),
    (r".*\.context_norm\.(gamma|beta)", "stored but never used"),
    (r".*temporal_transformer\..*\.spatial_rel_pos_bias\..*", "temporal layers never use a spatial bias"),
    (r".*\.relative_position_index", "derived from the window size"),
)
_UNUSED_BIAS = (r".*\.spatial_rel_pos_bias\..*", "this checkpoint's attention ran without additive biases")
_UNUSED_CODEBOOK = (r"codebook\.embeddings", "a VAE has no codebook")

_NORM = {"gamma": "weight", "beta": "bias", "weight": "weight", "bias": "bias"}
_EMBED = {"1": "norm_in", "2": "proj", "3": "norm_out"}
_STACKS = {
    "encoder.enc_spatial_transformer": "encoder.spatial",
    "encoder.enc_temporal_transformer": "encoder.temporal",
    "decoder.dec_temporal_transformer": "decoder.temporal",
    "decoder.dec_spatial_transformer": "decoder.spatial",
}
_ATTENTION = {
    "to_q.weight": "to_q.weight",
    "to_kv.weight": "to_kv.weight",
    "to_out.weight": "to_out.weight",
    "q_scale": "q_scale",
    "k_scale": "k_scale",
    "norm.gamma": "norm.weight",
    "norm.beta": "norm.bias",
    "qkv.weight": "qkv.weight",
    "proj.weight": "to_out.weight",
    "proj.bias": "to_out.bias",
    "relative_position_bias_table": "bias_table",
    "spatial_rel_pos_bias.net.0.0.weight": "position_bias.hidden.0.weight",
    "spatial_rel_pos_bias.net.0.0.bias": "position_bias.hidden.0.bias",
    "spatial_rel_pos_bias.net.1.0.weight": "position_bias.hidden.1.weight",
    "spatial_rel_pos_bias.net.1.0.bias": "position_bias.hidden.1.bias",
    "spatial_rel_pos_bias.net.2.weight": "position_bias.out.weight",
    "spatial_rel_pos_bias.net.2.bias": "position_bias.out.bias",
}
_FEED_FORWARD = {
    "0.weight": "norm.weight",
    "0.bias": "norm.bias",
    "1.weight": "to_hidden.weight",
    "4.weight": "to_out.weight",
}
_EXACT = {
    "codebook.embeddings": "head.codebook",
    "decoder.to_pixels_first_frame.0.weight": "decoder.pixels.first.weight",
    "decoder.to_pixels_first_frame.0.bias": "decoder.pixels.first.bias",
    "decoder.to_pixels.0.weight": "decoder.pixels.later.weight",
    "decoder.to_pixels.0.bias": "decoder.pixels.later.bias",
}


def rename(key: str, is_vq: bool) -> str | None:
    """Return our name of a published key, or None if there is none."""
    if key in _EXACT:
        return _EXACT[key]
    if match := re.fullmatch(r"encoder\.to_patch_emb(_first_frame)?\.([123])\.(weight|bias)", key):
        return f"encoder.embed.{'first' if match[1] else 'later'}.{_EMBED[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"(pre|post)_vq_conv\.1\.(weight|bias)", key):
        into, out = ("to_code", "from_code") if is_vq else ("to_moments", "from_latent")
        return f"head.{into if match[1] == 'pre' else out}.{match[2]}"
    stack = next((name for name in _STACKS if key.startswith(f"{name}.")), None)
    if stack is None:
        return None
    ours, rest = _STACKS[stack], key[len(stack) + 1 :]
    if match := re.fullmatch(r"norm_out\.(gamma|beta)", rest):
        return f"{ours}.norm_out.{_NORM[match[1]]}"
    if match := re.fullmatch(r"layers\.(\d+)\.0\.dsconv\.(weight|bias)", rest):
        return f"{ours}.blocks.{match[1]}.peg.{match[2]}"
    if (match := re.fullmatch(r"layers\.(\d+)\.1\.(.+)", rest)) and match[2] in _ATTENTION:
        return f"{ours}.blocks.{match[1]}.attention.{_ATTENTION[match[2]]}"
    if (match := re.fullmatch(r"layers\.(\d+)\.3\.(.+)", rest)) and match[2] in _FEED_FORWARD:
        return f"{ours}.blocks.{match[1]}.feed_forward.{_FEED_FORWARD[match[2]]}"
    return None


def read_flags(args: Namespace, additive_bias: bool) -> TokenizerConfig:
    """Return the geometry that a checkpoint's flags describe, in either spelling, absent ones at their old defaults.

    Args:
        args: `hyper_parameters["args"]`.
        additive_bias: whether the file was trained without fused attention.

    Raises:
        ConversionError: a flag asks for something that no released model uses.
    """
    flags = vars(args)
    check_flags(flags, _FIXED)

    def causal(what: str) -> bool:
        spellings = {bool(flags[name]) for name in (f"causal_in_{what}", f"casual_in_{what}") if name in flags}
        if len(spellings) > 1:
            raise ConversionError(f"The two spellings of causal_in_{what} disagree.")
        return spellings == {True}

    def blocks(name: str) -> str:
        return flags[name] if name in flags else "t" * int(flags["spatial_depth"])

    try:
        dim = flags["codebook_dim"]
        return TokenizerConfig(
            width=flags["embedding_dim"],
            heads=flags["heads"],
            head_dim=flags["dim_head"],
            patch=flags["patch_size"],
            temporal_patch=flags["temporal_patch_size"],
            encoder_blocks=blocks("enc_block"),
            decoder_blocks=blocks("dec_block"),
            temporal_layers=flags["temporal_depth"],
            window=flags.get("twod_window_size", 4),
            spatial_position=flags.get("spatial_pos", "rel"),
            additive_bias=additive_bias,
            temporal_order="published",
            causal_attention=causal("temporal_transformer"),
            causal_peg=causal("peg"),
            head=VAEConfig(dim) if flags.get("use_vae", False) else VQConfig(flags["n_codes"], dim),
        )
    except KeyError as error:
        raise ConversionError(f"The checkpoint's flags lack {error.args[0]!r}.") from error
    except (ConfigError, TypeError, ValueError) as error:
        raise ConversionError(f"The checkpoint's flags describe no tokenizer: {error}") from error


def build_tokenizer(
    args: Namespace, state: Mapping[Any, object], additive_bias: bool
) -> tuple[OmniTokenizer, dict[str, str], dict[str, str]]:
    """Build the tokenizer that published flags and tensors describe.

    Args:
        args: its flags.
        state: its tensors by their published keys.
        additive_bias: whether it was trained without fused attention.

    Returns:
        The tokenizer in evaluation mode, its names of the published keys, and the dropped keys with their reasons.

    Raises:
        ConversionError: unknown flags or keys, or tensors that are missing or misshapen.
    """
    config = read_flags(args, additive_bias)
    rules = list(_DROPPED)
    if not (config.additive_bias and config.spatial_position == "rel"):
        rules.append(_UNUSED_BIAS)
    if not config.is_vq:
        rules.append(_UNUSED_CODEBOOK)
    tensors, kept, dropped = sort_keys(state, lambda key: rename(key, config.is_vq), rules)
    weights = {name: _channels_last(name, tensors[key]) for key, name in kept.items()}
    try:
        return build_network(lambda: OmniTokenizer(config), weights), kept, dropped
    except WeightsError as error:
        raise ConversionError(str(error)) from error


def _channels_last(name: str, value: Tensor) -> Tensor:
    """Turn a depthwise kernel, published as (C, 1, 3, 3, 3), to channels last like everything else here."""
    depthwise = name.endswith("peg.weight") and value.dim() == 5
    return value[:, 0].permute(1, 2, 3, 0) if depthwise else value


def load_published(path: str | Path, additive_bias: bool | None = None) -> tuple[OmniTokenizer, dict[str, str]]:
    """Read a published tokenizer checkpoint without running what its pickle holds.

    Args:
        path: the `.ckpt` file.
        additive_bias: whether it was trained without fused attention; None decides by the file's name, since only
            `imagenet_only` was.

    Returns:
        The tokenizer in evaluation mode, and the dropped keys with their reasons.

    Raises:
        ConversionError: the file is no such checkpoint, or has unknown, missing or misshapen keys.
    """
    tokenizer, _, dropped = _load(Path(path), read_published(Path(path)), additive_bias)
    return tokenizer, dropped


def _load(
    path: Path, checkpoint: Mapping[str, Any], additive_bias: bool | None
) -> tuple[OmniTokenizer, dict[str, str], dict[str, str]]:
    if (parts := args_and_state(checkpoint)) is None:
        raise ConversionError(f"{path} is not a published tokenizer: it lacks 'state_dict' or 'hyper_parameters.args'.")
    if additive_bias is None:
        additive_bias = path.stem == ADDITIVE_BIAS_STEM
    try:
        return build_tokenizer(*parts, additive_bias)
    except ConversionError as error:
        raise ConversionError(f"{path}: {error}") from error


def convert_tokenizer(
    source: Path, checkpoint: Mapping[str, Any], destination: Path, additive_bias: bool | None = None
) -> ConversionReport:
    """Turn a published tokenizer checkpoint into a bundle, bit for bit in float32.

    Args:
        source: the `.ckpt` file.
        checkpoint: its content.
        destination: the bundle's folder.
        additive_bias: as for `load_published`.

    Raises:
        ConversionError: as for `load_published`.
        BundleError: the destination exists and is not a bundle.
    """
    tokenizer, kept, dropped = _load(source, checkpoint, additive_bias)
    card = model_card(source.name, "tokenizer", tokenizer.config.to_dict(), dropped)
    return ConversionReport(destination, tokenizer.config, save_bundle(destination, tokenizer, card), kept, dropped)
