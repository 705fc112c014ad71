"""The diffusion transformers DiT (images) and Latte (clips) in one network (section 3.2; docs/model.md, Diffusion)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.generator.diffusion_config import DiffusionConfig

NORM_EPS = 1e-6
FREQUENCIES = 256  # channels of a timestep's sinusoids
MODULATIONS = 6  # shift, scale and gate of attention, then of the feed-forward layer
OUT_MODULATIONS = 2  # shift and scale of the last norm


class Attention(nn.Module):
    """Multi-head attention over the second to last dimension, by one product for queries, keys and values."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each sequence of x (B, L, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward layer, each normalised, modulated and gated (adaLN)."""

    def __init__(self, config: DiffusionConfig, temporal: bool) -> None:
        super().__init__()
        self.temporal = temporal
        self.attention = Attention(config)
        self.expand = nn.Linear(config.width, config.mlp_ratio * config.width)
        self.contract = nn.Linear(config.mlp_ratio * config.width, config.width)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Transform tokens.

        Args:
            x: (B, T, N, D).
            modulation: (B, MODULATIONS, D).
        """
        batch, frames, positions, _ = x.shape
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation[:, :, None, None].unbind(1)
        normed = modulated_norm(x, shift, scale)
        if self.temporal:
            normed = normed.transpose(1, 2).flatten(0, 1)
            attended = self.attention(normed).unflatten(0, (batch, positions)).transpose(1, 2)
        else:
            attended = self.attention(normed.flatten(0, 1)).unflatten(0, (batch, frames))
        x = x + gate * attended
        hidden = F.gelu(self.expand(modulated_norm(x, mlp_shift, mlp_scale)), approximate="tanh")
        return x + mlp_gate * self.contract(hidden)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise over channels without weights, then scale and shift."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Return sines, then cosines of positions (...,), float64, as (..., width)."""
    frequencies = 10_000 ** (-torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angles = positions.double()[..., None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def spatial_positions(height: int, width: int, channels: int) -> Tensor:
    """Return the fixed embedding (height * width, channels) of positions: columns in the first half, then rows."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    halves = (sinusoids(axis.flatten(), channels // 2) for axis in (columns, rows))
    return torch.cat(tuple(halves), dim=-1).float()


class DiT(nn.Module):
    """A transformer that predicts the noise in latents, and the share of its variance, for a timestep and a class.

    Args:
        config: sizes.
    """

    spatial: Tensor
    temporal: Tensor

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        width, values = config.width, config.patch**2 * config.channels
        self.embed = nn.Linear(values, width)
        self.time_in = nn.Linear(FREQUENCIES, width)
        self.time_out = nn.Linear(width, width)
        self.classes = nn.Embedding(config.classes + 1, width)
        # of all blocks and of the output, for one product
        self.modulation = nn.Linear(width, (MODULATIONS * config.layers + OUT_MODULATIONS) * width)
        self.blocks = nn.ModuleList(Block(config, config.attends_along_time(layer)) for layer in range(config.layers))
        self.out = nn.Linear(width, 2 * values)
        frames, height, columns = config.tokens
        self.register_buffer("spatial", spatial_positions(height, columns, width), persistent=False)
        self.register_buffer("temporal", sinusoids(torch.arange(frames), width).float(), persistent=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Begin as the published training does: every block and the output are zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for weight in (self.classes.weight, self.time_in.weight, self.time_out.weight):
            nn.init.normal_(weight, std=0.02)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, timesteps: Tensor, classes: Tensor) -> Tensor:
        """Predict noise and variance.

        Args:
            x: noisy normalised latents (B, t, h, w, C), a grid of the config's height and width and at most its frames.
            timesteps: int64 (B,), from 0 to `config.timesteps` - 1.
            classes: int64 (B,); `config.null_class` for none.

        Returns:
            (B, t, h, w, 2 C): noise, then the share v in [-1, 1] of the log variance between its bounds.
        """
        return self.denoise(x, self.modulate(timesteps, classes))

    def condition(self, timesteps: Tensor, classes: Tensor) -> Tensor:
        """Return silu(timestep embedding + class embedding) (B, D), in float32."""
        half = FREQUENCIES // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timesteps.device) / half)
        angles = timesteps.float()[:, None] * frequencies
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1)
        hidden = F.silu(F.linear(waves, self.time_in.weight.float(), self.time_in.bias.float()))
        embedded = F.linear(hidden, self.time_out.weight.float(), self.time_out.bias.float())
        return F.silu(embedded + F.embedding(classes, self.classes.weight).float())

    def modulate(self, timesteps: Tensor, classes: Tensor) -> Tensor:
        """Return the shifts, scales and gates of all blocks and of the output, (B, 6 layers + 2, D).

        They depend on timestep and class alone; a sampler computes those of all its steps at once.
        """
        conditions = self.condition(timesteps, classes).to(self.modulation.weight.dtype)
        return self.modulation(conditions).unflatten(-1, (-1, self.config.width))

    def denoise(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Predict noise and variance as `forward` does, from the modulation that `modulate` returns."""
        tokens = self.tokens(x)
        for layer, block in enumerate(self.blocks):
            if layer == 1 and block.temporal:
                tokens = tokens + self.temporal[: x.shape[1], None].to(tokens.dtype)
            tokens = block(tokens, modulation[:, MODULATIONS * layer : MODULATIONS * (layer + 1)])
        shift, scale = modulation[:, -OUT_MODULATIONS:, None, None].unbind(1)
        return self.latents(self.out(modulated_norm(tokens, shift, scale)), x.shape)

    def tokens(self, x: Tensor) -> Tensor:
        """Embed the patches of latents (B, t, h, w, C) to tokens (B, t, N, D)."""
        p = self.config.patch
        patches = x.unflatten(3, (-1, p)).unflatten(2, (-1, p)).transpose(3, 4).flatten(4).flatten(2, 3)
        return self.embed(patches.to(self.embed.weight.dtype)) + self.spatial.to(self.embed.weight.dtype)

    def latents(self, values: Tensor, shape: torch.Size) -> Tensor:
        """Return the network's output (B, t, N, 2 p² C) in the latents' order (B, t, h, w, 2 C)."""
        p, (_, _, height, width, _) = self.config.patch, shape
        grid = values.unflatten(3, (p, p, -1)).unflatten(2, (height // p, width // p))
        return grid.transpose(3, 4).flatten(4, 5).flatten(2, 3)
