"""Transfer from one head to the other: KL fine-tuning of a VQ tokenizer (section 3.1.2), and table 10's other order.

A VQ head works with unit vectors, a VAE head with means of any length. So the layers around the head are scaled by a
statistic of a batch, and the decoder sees at first about what it saw before.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from model.tokenizer.config import TokenizerConfig, VAEConfig, VQConfig
from model.tokenizer.heads import VAEHead, VQHead
from model.tokenizer.patches import to_float
from model.tokenizer.tokenizer import OmniTokenizer
from training.distributed import Ranks
from training.errors import TrainingError

LOGVAR = -6.0  # the new posterior is narrow: a twentieth of the latents' spread


def with_head(config: TokenizerConfig, head: str, channels: int = 0) -> TokenizerConfig:
    """Return the geometry with a "vq" or "vae" head; a VAE has `channels`, or as many as a code has dimensions."""
    assert isinstance(config.head, VQConfig)
    return config if head == "vq" else replace(config, head=VAEConfig(channels or config.head.dim))


@torch.no_grad()
def transfer_head(source: OmniTokenizer, config: TokenizerConfig, pixels: Tensor, ranks: Ranks) -> OmniTokenizer:
    """Build a tokenizer with the source's encoder and decoder and the head of `config`.

    VQ to VAE: means are the vectors before normalisation, scaled to about unit variance, and log variances start at -6.
    VAE to VQ: vectors are the means, normalised; the codes are still to be started from a batch.
    VAE to a wider VAE: the old channels stay; new ones are random directions of unit variance that the decoder ignores.
    VQ to a wider VAE: by way of the VAE of the same width.

    Args:
        source: a trained tokenizer.
        config: the same geometry, with the head that is wanted.
        pixels: this rank's share of a batch, uint8 (n, T, H, W, 3), on the source's device.
        ranks: over which the statistic is taken.

    Raises:
        TrainingError: heads of other kinds differ in width, or a VAE would lose channels.
    """
    fresh = OmniTokenizer(config).to(next(source.parameters()).device)
    fresh.encoder.load_state_dict(source.encoder.state_dict())
    fresh.decoder.load_state_dict(source.decoder.state_dict())
    old, new = source.head, fresh.head
    if source.config.head == config.head:
        new.load_state_dict(old.state_dict())
        return fresh
    dim = config.head.dim
    embed = source.encoder(to_float(pixels, torch.float32))
    if isinstance(old, VAEHead) and isinstance(new, VAEHead):
        _widen(old, new, embed, ranks)
        return fresh
    if isinstance(old, VQHead) and dim > source.config.head.dim:
        narrow = transfer_head(source, with_head(source.config, "vae"), pixels, ranks)
        return transfer_head(narrow, config, pixels, ranks)
    if source.config.head.dim != dim:
        raise TrainingError(f"A head of width {source.config.head.dim} cannot become one of {dim} of another kind.")
    if isinstance(old, VQHead) and isinstance(new, VAEHead):
        length, square = _lengths(old.to_code(embed), ranks)
        spread = dim**0.5  # of unit vectors, so that each component has about unit variance
        # the scale at which vectors are closest to their normalised selves
        mean_rows = length / square * spread
        new.to_moments.weight.zero_()
        new.to_moments.weight[:dim].copy_(old.to_code.weight * mean_rows)
        new.to_moments.bias[:dim].copy_(old.to_code.bias * mean_rows)
        new.to_moments.bias[dim:].fill_(LOGVAR)
        new.from_latent.weight.copy_(old.from_code.weight / spread)
        new.from_latent.bias.copy_(old.from_code.bias)
    elif isinstance(old, VAEHead) and isinstance(new, VQHead):
        length, _ = _lengths(old(embed)[0], ranks)
        new.to_code.weight.copy_(old.to_moments.weight[:dim])
        new.to_code.bias.copy_(old.to_moments.bias[:dim])
        new.from_code.weight.copy_(old.from_latent.weight * length)
        new.from_code.bias.copy_(old.from_latent.bias)
    return fresh


def _widen(old: VAEHead, new: VAEHead, embed: Tensor, ranks: Ranks) -> None:
    """Copy a head's channels into a wider one.

    Raises:
        TrainingError: the new head is the narrower one.
    """
    had, dim = old.from_latent.in_features, new.from_latent.in_features
    if dim < had:
        raise TrainingError(f"A VAE of {had} channels cannot become one of {dim}: give latent_channels={had} or more.")
    for name in ("weight", "bias"):
        means, logvars = getattr(old.to_moments, name).chunk(2)
        moments = getattr(new.to_moments, name)
        moments[:had], moments[dim : dim + had] = means, logvars
    new.to_moments.weight[dim + had :].zero_()
    new.to_moments.bias[dim + had :].fill_(LOGVAR)
    drawn = embed @ new.to_moments.weight[had:dim].T
    statistics = torch.stack((drawn.flatten(0, -2).mean(0), drawn.flatten(0, -2).square().mean(0)))
    ranks.all_reduce_mean_([statistics])
    spread = (statistics[1] - statistics[0].square()).clamp(min=1e-6).sqrt()
    new.to_moments.weight[had:dim] /= spread[:, None]
    new.to_moments.bias[had:dim] = -statistics[0] / spread
    new.from_latent.weight.zero_()
    new.from_latent.weight[:, :had] = old.from_latent.weight
    new.from_latent.bias.copy_(old.from_latent.bias)


def _lengths(vectors: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Return the mean length and the mean squared length of vectors (..., d) over all ranks."""
    length = vectors.norm(dim=-1)
    statistics = torch.stack((length.mean(), length.square().mean())).clamp(min=1e-6)
    ranks.all_reduce_mean_([statistics])
    return statistics[0], statistics[1]
