"""A diffusion transformer on prepared weights: residuals, gates and norms in one pass between products (section 3.2).

Tokens are one matrix of rows (item, frame, position), for spatial and temporal blocks alike.
"""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from kernels.gelu_linear.choice import choose_algorithm
from kernels.gelu_linear.library import Shape
from model.generator.dit import MODULATIONS, OUT_MODULATIONS, Block, DiT, assemble, patchify

SHIFT, SCALE, GATE, MLP_SHIFT, MLP_SCALE, MLP_GATE = range(MODULATIONS)

# few rows make few output tiles, so that parts of a long sum occupy the multiprocessors that would be idle
SPLIT_MAX_ROWS, SPLIT_PARTS, SPLIT_ALIGNMENT = 1024, 4, 64


class LinearWeights(NamedTuple):
    """Matrix (N, K) and bias (N,) of a product."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: nn.Linear, device: torch.device, dtype: torch.dtype) -> LinearWeights:
        """Return those of a layer on a device, shared with it where they are there already."""
        return cls(layer.weight.detach().to(device, dtype), layer.bias.detach().to(device, dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply x (..., K)."""
        return F.linear(x, self.weight, self.bias)

    def in_parts(self, x: Tensor, parts: int) -> Tensor:
        """Return products (parts, ..., N) whose sum lacks the bias alone, each over its share of K."""
        rows = x.flatten(0, -2).unflatten(1, (parts, -1)).transpose(0, 1)
        weight = self.weight.unflatten(1, (parts, -1)).permute(1, 2, 0)
        return torch.bmm(rows, weight).unflatten(1, x.shape[:-1])


class BlockWeights(NamedTuple):
    """The products of a block."""

    temporal: bool
    qkv: LinearWeights
    proj: LinearWeights
    expand: LinearWeights
    contract: LinearWeights


class Features(NamedTuple):
    """The output of the last block (R, L, D), and what the last product takes: the same, normalised and modulated."""

    tokens: Tensor
    normed: Tensor


class DenoisingNetwork:
    """A `DiT` for inference.

    Args:
        model: its weights are copied where they are not on the device in this precision, and shared else.
        device: where it shall run.
        dtype: of products. The sum of all branches has the precision of float16 at least, the output is float32.
    """

    def __init__(self, model: DiT, device: torch.device, dtype: torch.dtype) -> None:
        self.config = model.config
        self.device = device
        self.dtype = dtype
        # as small as bfloat16, and eight times as precise
        self._residual = torch.float16 if dtype.itemsize == 2 else dtype

        def prepare(layer: nn.Linear) -> LinearWeights:
            return LinearWeights.of(layer, device, dtype)

        self._embed = prepare(model.embed)
        self._modulation = prepare(model.modulation)
        self._out = prepare(model.out)
        self._blocks = []
        for block in model.blocks:
            assert isinstance(block, Block)
            layers = block.attention.qkv, block.attention.proj, block.expand, block.contract
            self._blocks.append(BlockWeights(block.temporal, *map(prepare, layers)))
        self._spatial, self._temporal = (x.to(device, torch.float32) for x in (model.spatial, model.temporal))
        self._condition = deepcopy(model.condition).to(device, torch.float32)  # small, and sensitive to rounding

    def choose_algorithms(self, rows: int, frames: int) -> None:
        """Choose the algorithm of the largest product for so many rows of frames, on a GPU; its bits stay."""
        weight = self._blocks[0].expand.weight
        positions = self.config.tokens[1] * self.config.tokens[2]
        choose_algorithm(Shape(weight.device, self.dtype, rows * frames * positions, *weight.shape))

    def modulate(self, timesteps: Tensor, classes: Tensor) -> Tensor:
        """Return the shifts, scales and gates of all blocks (R, 6 layers + 2, D), as `DiT.modulate` does.

        Args:
            timesteps, classes: int64 (R,).
        """
        condition = self._condition(timesteps, classes).to(self.dtype)
        return self._modulation(condition).unflatten(-1, (-1, self.config.width))

    def features(self, x: Tensor, modulation: Tensor) -> Features:
        """Run all blocks.

        Args:
            x: noisy normalised latents (R, t, h, w, C), float32.
            modulation: from `modulate`, (R, 6 layers + 2, D).
        """
        frames, blocks = x.shape[1], self._blocks
        tokens = self._tokens(x)
        normed = kernels.adaptive_norm(tokens, modulation[:, SHIFT], modulation[:, SCALE])
        for layer, block in enumerate(blocks):
            own = modulation[:, MODULATIONS * layer : MODULATIONS * (layer + 1)]
            after = modulation[:, MODULATIONS * (layer + 1) :]  # of the next block, or of the output
            attended = self._attend(block, normed, frames)
            normed = kernels.gated_adaptive_norm(
                tokens, attended[None], None, own[:, GATE], own[:, MLP_SHIFT], own[:, MLP_SCALE]
            )
            parts, bias = self._contract(block.contract, kernels.gelu_linear(normed, *block.expand))
            normed = kernels.gated_adaptive_norm(
                tokens, parts, bias, own[:, MLP_GATE], after[:, SHIFT], after[:, SCALE]
            )
            if layer == 0 and len(blocks) > 1 and blocks[1].temporal:
                tokens.unflatten(1, (frames, -1)).add_(self._temporal[:frames, None])
                normed = kernels.adaptive_norm(tokens, after[:, SHIFT], after[:, SCALE])
        return Features(tokens, normed)

    def normalize(self, tokens: Tensor, modulation: Tensor) -> Tensor:
        """Return `Features.normed` of the last block's output (R, L, D)."""
        shift, scale = modulation[:, -OUT_MODULATIONS:].unbind(1)
        return kernels.adaptive_norm(tokens, shift, scale)

    def predict(self, normed: Tensor, frames: int) -> Tensor:
        """Return noise and variance (R, t, h, w, 2 C), float32, from `Features.normed`."""
        config = self.config
        values = self._out(normed).float().unflatten(1, (frames, -1))
        return assemble(values, config.patch, (config.grid[1], config.grid[2]))

    def _tokens(self, x: Tensor) -> Tensor:
        patches = patchify(x, self.config.patch).to(self.dtype)
        return (self._embed(patches) + self._spatial).to(self._residual).flatten(1, 2)

    def _contract(self, layer: LinearWeights, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return parts of the product and what bias their sum lacks."""
        rows, inner = hidden.shape[:-1].numel(), hidden.shape[-1]
        if hidden.is_cuda and rows <= SPLIT_MAX_ROWS and inner % (SPLIT_PARTS * SPLIT_ALIGNMENT) == 0:
            return layer.in_parts(hidden, SPLIT_PARTS), layer.bias
        return layer(hidden)[None], None

    def _attend(self, block: BlockWeights, normed: Tensor, frames: int) -> Tensor:
        """Attend within frames or along them, tokens (R, L, D)."""
        rows, length, _ = normed.shape
        qkv = block.qkv(normed).unflatten(-1, (3, self.config.heads, -1))
        if block.temporal:
            attended = kernels.frame_attention(qkv.unflatten(1, (frames, -1)))
        else:
            attended = kernels.sequence_attention(qkv.view(rows * frames, length // frames, *qkv.shape[2:]))
        return block.proj(attended.reshape(normed.shape))
