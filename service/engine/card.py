"""The card of a loaded bundle."""

from __future__ import annotations

import torch

from model.bundle import Bundle
from model.tokenizer.config import VQConfig
from service.types import ModelCard


def model_card(bundle: Bundle, device: torch.device, dtype: str) -> ModelCard:
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
        parameters=sum(parameter.numel() for parameter in bundle.tokenizer.parameters()),
        device=str(device),
        dtype=dtype,
        licence=bundle.licence,
    )
