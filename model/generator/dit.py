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


class Condition(nn.Module):
    """The embedding of a timestep and a class, from which all modulations come."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.time_in = nn.Linear(FREQUENCIES, config.width)
        self.time_out = nn.Linear(config.width, config.width)
        self.classes = nn.Embedding(config.classes + 1, config.width)

    def forward(self, timesteps: Tensor, classes: Tensor) -> Tensor:
        """Return silu(timestep embedding + class embedding) (B, D) of timesteps and classes (B,)."""
        half = FREQUENCIES // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timesteps.device) / half)
        angles = timesteps.float()[:, None] * frequencies
        waves = torch.cat((angles.cos(), angles.sin()), dim=-1).to(self.time_in.weight.dtype)
        return F.silu(self.time_out(F.silu(self.time_in(waves))) + self.classes(classes))


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
        self.condition = Condition(config)
        # of all blocks and of the output, for one product
        self.modulation = nn.Linear(width, (MODULATIONS * config.layers + OUT_MODULATIONS) * width)
        self.blocks = nn.ModuleList(Block(config, config.attends_along_time(layer)) for layer in range(config.layers))
        self.out = nn.Linear(width, 2 * values)
        frames, height, columns = config.tokens
        with torch.device("cpu"):  # on the meta device they would load the compiler of torch
            spatial = spatial_positions(height, columns, width)
            temporal = sinusoids(torch.arange(frames), width).float()
        self.register_buffer("spatial", spatial.to(torch.get_default_device()), persistent=False)
        self.register_buffer("temporal", temporal.to(torch.get_default_device()), persistent=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Begin as the published training does: every block and the output are zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for weight in (weight for weight in self.condition.parameters() if weight.dim() == 2):
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

    def modulate(self, timesteps: Tensor, classes: Tensor) -> Tensor:
        """Return the shifts, scales and gates of all blocks and of the output, (B, 6 layers + 2, D).

        They depend on timestep and class alone; a sampler computes those of all its steps at once.
        """
        condition = self.condition(timesteps, classes).to(self.modulation.weight.dtype)
        return self.modulation(condition).unflatten(-1, (-1, self.config.width))

    def denoise(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Predict noise and variance as `forward` does, from the modulation that `modulate` returns."""
        tokens = self.tokens(x)
        for layer, block in enumerate(self.blocks):
            if layer == 1 and block.temporal:
                tokens = tokens + self.temporal[: x.shape[1], None].to(tokens.dtype)
            tokens = block(tokens, modulation[:, MODULATIONS * layer : MODULATIONS * (layer + 1)])
        shift, scale = modulation[:, -OUT_MODULATIONS:, None, None].unbind(1)
        values = self.out(modulated_norm(tokens, shift, scale))
        return assemble(values, self.config.patch, (x.shape[2], x.shape[3]))

    def tokens(self, x: Tensor) -> Tensor:
        """Embed the patches of latents (B, t, h, w, C) to tokens (B, t, N, D)."""
        dtype = self.embed.weight.dtype
        return self.embed(patchify(x, self.config.patch).to(dtype)) + self.spatial.to(dtype)


def patchify(x: Tensor, patch: int) -> Tensor:
    """Return the patches (B, t, N, patch² C) of latents (B, t, h, w, C)."""
    grid = x.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return grid.transpose(3, 4).flatten(4).flatten(2, 3)


def assemble(patches: Tensor, patch: int, size: tuple[int, int]) -> Tensor:
    """Return latents (B, t, h, w, C) of their patches (B, t, N, patch² C), the inverse of `patchify`.

    Args:
        patches: of latents.
        patch: side of a patch.
        size: height and width of the latents.
    """
    height, width = size
    grid = patches.unflatten(3, (patch, patch, -1)).unflatten(2, (height // patch, width // patch))
    return grid.transpose(3, 4).flatten(4, 5).flatten(2, 3)
