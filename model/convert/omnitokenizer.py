"""Published tokenizer checkpoints to bundles: flags, rename table, and a report of every key (docs/model.md, Files)."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from model.bundle import save_bundle
from model.config_checks import ConfigError
from model.convert.safe_load import CheckpointError, read_checkpoint
from model.tokenizer.config import TokenizerConfig, VAEConfig, VQConfig
from model.tokenizer.tokenizer import OmniTokenizer
from model.weights import WeightsError, build_network


class ConversionError(ValueError):
    """A checkpoint that cannot become a bundle, in one sentence."""


@dataclass(frozen=True)
class ConversionReport:
    """The report of a conversion.

    Args:
        config: the geometry that its flags describe.
        hash: content hash of the bundle.
        kept: names of the bundle's tensors.
        dropped: published keys that are not in it, with the reason.
    """

    config: TokenizerConfig
    hash: str
    kept: list[str]
    dropped: dict[str, str]


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
    for name, only in _FIXED.items():
        if flags.get(name, only) != only:
            raise ConversionError(f"flag {name}={flags[name]!r} is not supported, only {only!r}")

    def causal(what: str) -> bool:
        spellings = {bool(flags[name]) for name in (f"causal_in_{what}", f"casual_in_{what}") if name in flags}
        if len(spellings) > 1:
            raise ConversionError(f"the two spellings of causal_in_{what} disagree")
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
        raise ConversionError(f"the checkpoint's flags lack {error.args[0]!r}") from error
    except (ConfigError, TypeError, ValueError) as error:
        raise ConversionError(f"the checkpoint's flags describe no tokenizer: {error}") from error


def _sort_keys(state: Mapping[str, Tensor], config: TokenizerConfig) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors by our names, and dropped keys with their reasons.

    Raises:
        ConversionError: unknown keys.
    """
    rules = list(_DROPPED)
    if not (config.additive_bias and config.spatial_position == "rel"):
        rules.append(_UNUSED_BIAS)
    if not config.is_vq:
        rules.append(_UNUSED_CODEBOOK)
    kept: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    unknown: list[str] = []
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ConversionError(f"state_dict holds {key!r}: {type(value).__name__}, not tensors by name")
        reason = next((why for pattern, why in rules if re.fullmatch(pattern, key)), None)
        name = rename(key, config.is_vq)
        if reason is not None:
            dropped[key] = reason
        elif name is None:
            unknown.append(key)
        else:
            # depthwise kernels are stored (C, 1, 3, 3, 3); ours are channels last like everything else
            depthwise = name.endswith("peg.weight") and value.dim() == 5
            kept[name] = value[:, 0].permute(1, 2, 3, 0) if depthwise else value
    if unknown:
        raise ConversionError(f"{len(unknown)} unknown keys: {', '.join(unknown)}")
    return kept, dropped


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
    path = Path(path)
    try:
        checkpoint = read_checkpoint(path)
    except CheckpointError as error:
        raise ConversionError(str(error)) from error
    hyper = checkpoint.get("hyper_parameters")
    args = hyper.get("args") if isinstance(hyper, dict) else None
    state = checkpoint.get("state_dict")
    if not isinstance(args, Namespace) or not isinstance(state, dict):
        raise ConversionError(f"{path} is not a published tokenizer: it lacks 'state_dict' or 'hyper_parameters.args'")
    if additive_bias is None:
        additive_bias = path.stem == "imagenet_only"
    try:
        config = read_flags(args, additive_bias)
        kept, dropped = _sort_keys(state, config)
        tokenizer = build_network(lambda: OmniTokenizer(config), kept)
    except (ConversionError, WeightsError) as error:
        raise ConversionError(f"{path}: {error}") from error
    return tokenizer, dropped


def convert_checkpoint(
    source: str | Path, destination: str | Path, additive_bias: bool | None = None
) -> ConversionReport:
    """Turn a published tokenizer checkpoint into a bundle, bit for bit in float32.

    Args:
        source: the `.ckpt` file.
        destination: the bundle's folder.
        additive_bias: as for `load_published`.

    Raises:
        ConversionError: as for `load_published`.
        BundleError: the destination exists and is not a bundle.
    """
    tokenizer, dropped = load_published(source, additive_bias)
    source = Path(source)
    card = _card(source.name, tokenizer.config, dropped)
    digest = save_bundle(destination, tokenizer, card)
    return ConversionReport(tokenizer.config, digest, sorted(tokenizer.state_dict()), dropped)


def _card(name: str, config: TokenizerConfig, dropped: Mapping[str, str]) -> str:
    reasons: dict[str, int] = {}
    for reason in dropped.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    rows = "".join(f"- {count} tensors: {reason}\n" for reason, count in sorted(reasons.items()))
    flags = "".join(f"- {key}: {value}\n" for key, value in config.to_dict().items())
    return (
        f"# {name}\n\nConverted from a published OmniTokenizer checkpoint, weights unchanged (float32).\n"
        "Licence, training data and metrics are those of the original; the file does not state them.\n"
        f"\n## Geometry\n\n{flags}\n## Left out\n\n{rows}"
    )
