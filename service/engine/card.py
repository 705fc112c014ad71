"""The cards of bundles, which need no network."""

from __future__ import annotations

from dataclasses import asdict

from model.bundle_header import GeneratorHeader, TokenizerHeader
from model.generator.config import LanguageModelConfig
from model.tokenizer.config import VQConfig
from service.engine.lane import LaneOptions
from service.types import GenerateParams, GeneratorCard, Kind, ModelCard


def model_card(bundle: TokenizerHeader, device: str, dtype: str) -> ModelCard:
    """Describe a bundle and how it runs.

    Args:
        bundle: a tokenizer.
        device: where it runs.
        dtype: precision of its networks.
    """
    config = bundle.config
    return ModelCard(
        id=bundle.name,
        hash=bundle.hash,
        kind="vq" if config.is_vq else "vae",
        codebook_size=config.head.codes if isinstance(config.head, VQConfig) else None,
        latent_channels=config.head.dim,
        patch=config.patch,
        temporal_patch=config.temporal_patch,
        temporal_order=config.temporal_order,
        streaming=config.streams,
        parameters=bundle.parameters,
        device=device,
        dtype=dtype,
        licence=bundle.licence,
    )


def generator_card(bundle: GeneratorHeader, device: str, options: LaneOptions) -> GeneratorCard:
    """Describe a generator and how it runs.

    Args:
        bundle: a generator.
        device: where it runs.
        options: slots and precision.
    """
    config = bundle.config
    makes: tuple[Kind, ...] = ("image",) if config.grid[0] == 1 else ("video",)
    if isinstance(config, LanguageModelConfig):
        needs_prefix = config.prefix_length == 0
        if makes == ("video",) and not needs_prefix:
            makes = ("image", "video")  # a picture is the first latent frame of a clip
        unconditional, guided = config.classes == 0 or config.null_class, config.guidance != "none"
        takes_prefix, max_steps = config.grid[0] > 1, None
    else:
        needs_prefix = takes_prefix = False
        if makes == ("video",) and config.images:
            makes = ("video", "image")
        unconditional = guided = True
        max_steps = config.timesteps
    return GeneratorCard(
        id=bundle.name,
        hash=bundle.hash,
        kind="lm" if isinstance(config, LanguageModelConfig) else "diffusion",
        makes=makes,
        tokenizer_hash=bundle.tokenizer_hash,
        classes=bundle.classes,
        class_count=config.classes,
        unconditional=unconditional,
        grid=config.grid,
        takes_prefix=takes_prefix,
        needs_prefix=needs_prefix,
        guided=guided,
        defaults=GenerateParams(**asdict(config.sampling)),
        slots=options.slots,
        parameters=bundle.parameters,
        device=device,
        dtype=options.dtype if device.startswith("cuda") else "float32",
        licence=bundle.licence,
        max_steps=max_steps,
    )
