"""The two heads between encoder and decoder: codes or Gaussian latents (section 3.1; docs/model.md, Tokenizer 8)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from model.tokenizer.config import TokenizerConfig, VAEConfig, VQConfig


def _full_precision(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a layer in its own weights' precision, whatever autocast says: codes are decided here."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(layer.weight.dtype))


class VQHead(nn.Module):
    """Factorised, l2-normalised codes (section 3.1.2): project, normalise, nearest code, expand."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        if not isinstance(config.head, VQConfig):
            raise TypeError(f"A VQ head needs a VQConfig, not {config.head}.")
        self.to_code = nn.Linear(config.width, config.head.dim)
        self.codebook = nn.Parameter(
            F.normalize(nn.init.normal_(torch.empty(config.head.codes, config.head.dim)), dim=-1)
        )
        self.from_code = nn.Linear(config.head.dim, config.width)

    def forward(self, embed: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit vectors (..., d) of the encoder's output (..., D), and their tokens (...)."""
        vectors = self.project(embed)
        return vectors, self.assign(vectors)

    def project(self, embed: Tensor) -> Tensor:
        """Project the encoder's output (..., D) to unit vectors (..., d), in the head's precision."""
        return F.normalize(_full_precision(self.to_code, embed), dim=-1)

    def assign(self, z: Tensor) -> Tensor:
        """Return int64 tokens (...) of unit vectors (..., d): the nearest code, the lowest index among equals."""
        return kernels.vq_assign(z, self.codebook)

    def lookup(self, tokens: Tensor) -> Tensor:
        """Return the codes (..., d) of tokens (...) in [0, codes)."""
        return F.embedding(tokens, self.codebook)

    def expand(self, codes: Tensor) -> Tensor:
        """Expand codes (..., d) to the decoder's input (..., D)."""
        return _full_precision(self.from_code, codes)


class VAEHead(nn.Module):
    """Diagonal Gaussian latents (section 3.1.2, KL fine-tuning)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        if not isinstance(config.head, VAEConfig):
            raise TypeError(f"A VAE head needs a VAEConfig, not {config.head}.")
        self.to_moments = nn.Linear(config.width, 2 * config.head.dim)
        self.from_latent = nn.Linear(config.head.dim, config.width)

    def forward(self, embed: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, each (..., c), of the encoder's output (..., D); the latter in [-30, 20]."""
        mean, logvar = _full_precision(self.to_moments, embed).chunk(2, dim=-1)
        return mean, logvar.clamp(-30.0, 20.0)

    def sample(self, mean: Tensor, logvar: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from the Gaussian with noise from `generator`, which is on the latents' device."""
        noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
        return mean + noise * (0.5 * logvar).exp()

    def expand(self, latents: Tensor) -> Tensor:
        """Expand latents (..., c) to the decoder's input (..., D)."""
        return _full_precision(self.from_latent, latents)
