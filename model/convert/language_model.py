"""Published language models to bundles: flags, rename table, and a report of every key (docs/model.md, Files)."""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.bundle import check_classes, load_bundle, save_bundle, save_generator
from model.bundle_files import check_replaceable
from model.config_checks import ConfigError
from model.convert.carried_tokenizer import carried_tokenizer
from model.convert.published import (
    ConversionError,
    ConversionReport,
    args_and_state,
    check_flags,
    model_card,
    sort_keys,
)
from model.generator.config import LanguageModelConfig, Prefix, SamplingDefaults
from model.generator.lm import LanguageModel
from model.tokenizer.config import TokenizerConfig, VQConfig
from model.tokenizer.tokenizer import OmniTokenizer
from model.weights import WeightsError, build_network

# Flags that would change the computation, with the only value that the released models use.
_FIXED = {
    "cond_stage_key": "label",
    "n_unmasked": 0,
    "vtokens": False,
    "vtokens_pos": False,
    "sample_every_n_latent_frames": 0,
}

_DROPPED = (
    (r"transformer\.blocks\.\d+\.attn\.mask", "causal mask, derived from the block size"),
    (r"first_stage_model\..*", "tokenizer, which has a bundle of its own"),
)

_EXACT = {
    "transformer.tok_emb.weight": "tokens.weight",
    "transformer.pos_emb": "positions.weight",
    "transformer.head.weight": "head.weight",
}
_LAYER = {
    "ln1": "attention.norm",
    "attn.query": "attention.qkv",
    "attn.key": "attention.qkv",
    "attn.value": "attention.qkv",
    "attn.proj": "attention.to_out",
    "ln2": "mlp.norm",
    "mlp.0": "mlp.to_hidden",
    "mlp.2": "mlp.to_out",
}


def rename(key: str) -> str | None:
    """Return our name of a published key, or None if there is none; three keys share each `qkv`."""
    if key in _EXACT:
        return _EXACT[key]
    if match := re.fullmatch(r"transformer\.ln_f\.(weight|bias)", key):
        return f"norm_out.{match[1]}"
    if (match := re.fullmatch(r"transformer\.blocks\.(\d+)\.(.+)\.(weight|bias)", key)) and match[2] in _LAYER:
        return f"blocks.{match[1]}.{_LAYER[match[2]]}.{match[3]}"
    return None


def read_flags(args: Namespace, tokenizer: TokenizerConfig) -> LanguageModelConfig:
    """Return the config that a language model's flags describe.

    Args:
        args: `hyper_parameters["args"]`.
        tokenizer: config of the tokenizer whose codes it speaks.

    Raises:
        ConversionError: a flag is missing, or asks for something that no released model uses.
    """
    if not isinstance(tokenizer.head, VQConfig):
        raise ConversionError("It speaks codes, and its tokenizer is a VAE; name a VQ tokenizer.")
    flags = vars(args)
    check_flags(flags, _FIXED)
    try:
        conditional, sos = not flags["unconditional"], bool(flags["starts_with_sos"])
        codes = flags.get("first_stage_vocab_size", tokenizer.head.codes)
        if sos and not conditional:
            raise ConversionError("Flags unconditional and starts_with_sos are not supported together.")
        if codes != tokenizer.head.codes:
            raise ConversionError(f"It speaks {codes} codes, and its tokenizer has {tokenizer.head.codes}.")
        with_sos: Prefix = "class_sos" if flags.get("class_first", False) else "sos_class"
        prefix: Prefix = "none" if not conditional else with_sos if sos else "class"
        frames = 1 + (flags.get("sequence_length", 17) - 1) // tokenizer.temporal_patch
        grid = _grid(flags["block_size"] - (sos and conditional), frames)
        return LanguageModelConfig(
            layers=flags["n_layer"],
            width=flags["n_embd"],
            heads=flags["n_head"],
            codes=codes,
            classes=flags["class_cond_dim"] if conditional else 0,
            null_class=False,
            prefix=prefix,
            positions=flags["block_size"],
            grid=grid,
            sampling=_sampling(prefix, grid),
        )
    except KeyError as error:
        raise ConversionError(f"The checkpoint's flags lack {error.args[0]!r}.") from error
    except (ConfigError, TypeError) as error:
        raise ConversionError(f"The checkpoint's flags describe no language model: {error}") from error


def _grid(codes: int, frames: int) -> tuple[int, int, int]:
    """Return the latent grid of a sequence of codes: square frames, one for images or as many as a clip has."""
    for count in (1, max(frames, 1)):
        side = math.isqrt(max(codes, 0) // count)
        if count * side * side == codes:
            return count, side, side
    raise ConversionError(f"{codes} codes are neither a square image nor a clip of {frames} square latent frames.")


def _sampling(prefix: Prefix, grid: tuple[int, int, int]) -> SamplingDefaults:
    """Return the published settings of images by class, clips by class, or frame prediction."""
    if prefix == "none":
        return SamplingDefaults(top_k=2048, top_p=0.9)
    guided = prefix != "class"
    if grid[0] == 1:
        return SamplingDefaults(top_k=2048, guidance=2.5 if guided else 1.0)
    return SamplingDefaults(top_k=4096, top_p=0.9, guidance=1.5 if guided else 1.0)


def build_language_model(
    args: Namespace, state: Mapping[Any, object], tokenizer: TokenizerConfig
) -> tuple[LanguageModel, dict[str, str], dict[str, str]]:
    """Build the language model that published flags and tensors describe.

    Args:
        args: its flags.
        state: its tensors by their published keys.
        tokenizer: config of the tokenizer whose codes it speaks.

    Returns:
        The model in evaluation mode, its names of the published keys, and the dropped keys with their reasons.

    Raises:
        ConversionError: unknown flags or keys, or tensors that are missing or misshapen.
    """
    config = read_flags(args, tokenizer)
    tensors, kept, dropped = sort_keys(state, rename, _DROPPED)
    weights: dict[str, Tensor] = {}
    for name in kept.values():
        if match := re.fullmatch(r"blocks\.(\d+)\.attention\.qkv\.(weight|bias)", name):
            keys = [f"transformer.blocks.{match[1]}.attn.{part}.{match[2]}" for part in ("query", "key", "value")]
            if missing := [key for key in keys if key not in tensors]:
                raise ConversionError(f"{len(missing)} keys are missing: {', '.join(missing)}")
            if len({tensors[key].shape for key in keys}) > 1:
                raise ConversionError(f"{', '.join(keys)} differ in shape.")
            weights[name] = torch.cat([tensors[key] for key in keys])
    weights |= {name: _unbatched(tensors[key]) for key, name in kept.items() if name not in weights}
    try:
        return build_network(lambda: LanguageModel(config), weights), kept, dropped
    except WeightsError as error:
        raise ConversionError(str(error)) from error


def _unbatched(value: Tensor) -> Tensor:
    """Turn learned positions, published as (1, positions, width), to a matrix."""
    return value[0] if value.dim() == 3 and len(value) == 1 else value


def convert_language_model(
    source: Path,
    checkpoint: Mapping[str, Any],
    destination: Path,
    tokenizer: Path | None = None,
    classes: Sequence[str] | None = None,
    additive_bias: bool | None = None,
) -> ConversionReport:
    """Turn a published language model into a bundle, bit for bit in float32.

    A tokenizer that the file carries becomes a bundle at the destination's name with `-tokenizer` appended, unless the
    caller names a bundle of the same weights.

    Args:
        source: the `.ckpt` file.
        checkpoint: its content.
        destination: the bundle's folder.
        tokenizer: bundle of the tokenizer whose codes the model speaks; needed where the file carries none.
        classes: a name for each class; None for their ids.
        additive_bias: as for `convert_tokenizer`, of the tokenizer in the file.

    Raises:
        ConversionError: the file is not such a checkpoint, or the tokenizer is not its own.
        BundleError: a destination exists and is not a bundle, the tokenizer's bundle is broken, or the names do not
            fit the classes.
    """
    if (parts := args_and_state(checkpoint)) is None:
        raise ConversionError(f"{source} is not a published language model: it lacks 'hyper_parameters.args'.")
    args, state = parts
    try:
        carried = carried_tokenizer(args, state, additive_bias)
        if tokenizer is not None:
            given = load_bundle(tokenizer)
            if carried is not None and not _same(given.tokenizer, carried.network):
                raise ConversionError(f"It carries another tokenizer than {tokenizer}.")
            network = given.tokenizer
        elif carried is not None:
            network = carried.network
        else:
            raise ConversionError("It carries no tokenizer; name with --tokenizer the one whose codes it speaks.")
        model, kept, dropped = build_language_model(args, state, network.config)
    except ConversionError as error:
        raise ConversionError(f"{source}: {error}") from error
    names = [str(index) for index in range(model.config.classes)] if classes is None else classes
    check_classes(names, model.config.classes)
    check_replaceable(destination, "generator")
    report = None
    if tokenizer is None and carried is not None:
        folder = destination.with_name(f"{destination.name}-tokenizer")
        card = model_card(source.name, "tokenizer", network.config.to_dict(), carried.dropped)
        tokenizer_hash = save_bundle(folder, network, card)
        report = ConversionReport(folder, network.config, tokenizer_hash, carried.kept, carried.dropped)
    else:
        tokenizer_hash = given.hash
    card = model_card(source.name, "language model", model.config.to_dict(), dropped)
    digest = save_generator(destination, model, card, tokenizer_hash, names)
    return ConversionReport(destination, model.config, digest, kept, dropped, report)


def _same(one: OmniTokenizer, other: OmniTokenizer) -> bool:
    """Return whether two tokenizers compute the same from the same weights."""
    ours, theirs = one.state_dict(), other.state_dict()
    return one.config == other.config and all(torch.equal(value, theirs[name]) for name, value in ours.items())
