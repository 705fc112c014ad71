"""A VAE bundle with the interface of diffusers' `AutoencoderKL`, for code that takes a `vae`; it needs no diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model.bundle import load_bundle
from model.bundle_files import BundleError
from model.tokenizer.heads import VAEHead
from model.tokenizer.patches import PixelError
from model.tokenizer.tokenizer import OmniTokenizer


@dataclass(frozen=True)
class AutoencoderConfig:
    """The part of `AutoencoderKL.config` that pipelines and trainers read.

    Args:
        latent_channels: channels of a latent.
        spatial_compression_ratio, temporal_compression_ratio: pixels and frames behind one latent position.
        scaling_factor, shift_factor: of latents; those of these bundles are used as they are.
        in_channels, out_channels: RGB.
    """

    latent_channels: int
    spatial_compression_ratio: int
    temporal_compression_ratio: int
    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    in_channels: int = 3
    out_channels: int = 3


class DiagonalGaussian:
    """The distribution of latents.

    Args:
        mean, logvar: (B, c, h, w) of images, (B, c, t, h, w) of clips.
    """

    def __init__(self, mean: Tensor, logvar: Tensor) -> None:
        self.mean, self.logvar = mean, logvar
        self.std, self.var = (0.5 * logvar).exp(), logvar.exp()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents."""
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.std * noise

    def mode(self) -> Tensor:
        """Return the mean, which the service sends."""
        return self.mean

    def kl(self) -> Tensor:
        """Return the divergence of each item from the standard normal distribution, (B,)."""
        return 0.5 * (self.mean.square() + self.var - 1 - self.logvar).flatten(1).sum(1)


@dataclass(frozen=True)
class EncoderOutput:
    """The outcome of `encode`."""

    latent_dist: DiagonalGaussian


@dataclass(frozen=True)
class DecoderOutput:
    """The outcome of `decode`: floats around [-1, 1], (B, 3, H, W) of images, (B, 3, T, H, W) of clips."""

    sample: Tensor


class AutoencoderKLOmniTokenizer(nn.Module):
    """A VAE for images and clips; `encode` and `decode` are differentiable.

    Args:
        tokenizer: of a VAE bundle.
    """

    def __init__(self, tokenizer: OmniTokenizer) -> None:
        super().__init__()
        if not isinstance(tokenizer.head, VAEHead):
            raise TypeError("An autoencoder needs a VAE tokenizer; this one has a codebook.")
        self.tokenizer = tokenizer
        config = tokenizer.config
        self.config = AutoencoderConfig(config.head.dim, config.patch, config.temporal_patch)

    @classmethod
    def from_pretrained(cls, path: str | Path, torch_dtype: torch.dtype = torch.float32) -> AutoencoderKLOmniTokenizer:
        """Load a bundle's folder; `.to(device)` moves it.

        Raises:
            BundleError: the folder is not a VAE bundle, or was damaged or changed.
        """
        bundle = load_bundle(path, dtype=torch_dtype)
        if bundle.config.is_vq:
            raise BundleError(f"{path} is a VQ bundle; name a VAE bundle, such as bundles/demo-vae.")
        return cls(bundle.tokenizer)

    @property
    def device(self) -> torch.device:
        """Return where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of encoder and decoder."""
        return self.tokenizer.dtype

    def encode(self, x: Tensor, return_dict: bool = True) -> EncoderOutput | tuple[DiagonalGaussian]:
        """Encode images or clips.

        Args:
            x: floats in [-1, 1], (B, 3, H, W) or (B, 3, T, H, W), of any height, width and length.
            return_dict: whether the outcome is an object, or a tuple.

        Raises:
            PixelError: pixels of another shape or range.
        """
        posterior = self._posterior(x)
        return EncoderOutput(posterior) if return_dict else (posterior,)

    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Decode latents.

        Args:
            z: floats (B, c, h, w) or (B, c, t, h, w).
            return_dict: whether the outcome is an object, or a tuple.
            generator: not used: decoding draws nothing. Pipelines pass theirs.

        Raises:
            CodeError: latents of another shape, or not finite.
        """
        sample = self._decoded(z)
        return DecoderOutput(sample) if return_dict else (sample,)

    def forward(self, sample: Tensor) -> DecoderOutput:
        """Encode to the mean and decode."""
        return DecoderOutput(self._decoded(self._posterior(sample).mode()))

    def _posterior(self, x: Tensor) -> DiagonalGaussian:
        low, high = x.aminmax()
        if not (low >= -1 and high <= 1):
            raise PixelError(f"Pixels must be floats in [-1, 1], not [{low:.4g}, {high:.4g}].")
        clips = x if x.dim() == 5 else x.unsqueeze(2)
        mean, logvar = self.tokenizer.encode_moments(clips.movedim(1, -1) / 2)
        return DiagonalGaussian(_like(mean, x), _like(logvar, x))

    def _decoded(self, z: Tensor) -> Tensor:
        latents = (z if z.dim() == 5 else z.unsqueeze(2)).movedim(1, -1)
        self.tokenizer.check_codes(latents)
        return _like(2 * self.tokenizer.decoder(self.tokenizer.head.expand(latents).to(self.dtype)), z)


def _like(clips: Tensor, given: Tensor) -> Tensor:
    """Return (B, T, H, W, C) with the axes of what was given, (B, C, H, W) or (B, C, T, H, W)."""
    planes = clips.movedim(-1, 1)
    return planes if given.dim() == 5 else planes.squeeze(2)
