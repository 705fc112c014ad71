"""The joint image-video tokenizer: encoder, head and decoder behind one interface (section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.tokenizer.config import TokenizerConfig
from model.tokenizer.heads import VAEHead, VQHead
from model.tokenizer.layers import BlockState
from model.tokenizer.patches import (
    FLOATS,
    PatchEmbed,
    ToPixels,
    check_pixels,
    pad_clip,
    pad_space,
    pad_to,
    to_float,
    to_uint8,
)
from model.tokenizer.streaming import DecoderState, EncoderState, StreamError, check_depth
from model.tokenizer.transformer import Stack


class CodeError(ValueError):
    """Tokens or latents that do not fit the model."""


def is_encoding_weight(name: str) -> bool:
    """Return whether a weight of this name decides codes: of the encoder, the projection to codes, or the codebook."""
    return not name.startswith(("decoder.", "head.from_code.", "head.from_latent."))


class Encoder(nn.Module):
    """Patch embedding, spatial stack, temporal stack (docs/model.md, Tokenizer 1 and 2)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.embed = PatchEmbed(config)
        self.spatial = Stack(config, config.encoder_blocks)
        self.temporal = Stack(config, None)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode padded float pixels (B, 1 + k * temporal_patch, H, W, 3) in [-0.5, 0.5] to (B, t, h, w, D)."""
        return self.temporal(self.spatial(self.embed(pixels))[0])[0]

    def chunk(self, pixels: Tensor, starts: bool, states: Sequence[BlockState]) -> tuple[Tensor, list[BlockState]]:
        """Run a part of a clip, after the blocks' states."""
        depth = len(self.spatial.blocks)
        x, spatial = self.spatial(self.embed(pixels, starts), states[:depth])
        x, temporal = self.temporal(x, states[depth:])
        return x, spatial + temporal

    def initial(self) -> list[BlockState]:
        """Return the states before the first chunk."""
        return self.spatial.initial() + self.temporal.initial()


class Decoder(nn.Module):
    """Temporal stack, spatial stack, pixels (docs/model.md, Tokenizer 2 and 9)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.temporal = Stack(config, None)
        self.spatial = Stack(config, config.decoder_blocks)
        self.pixels = ToPixels(config)

    def forward(self, embed: Tensor) -> Tensor:
        """Decode embeddings (B, t, h, w, D) to float pixels (B, 1 + (t - 1) * temporal_patch, H, W, 3)."""
        return self.pixels(self.spatial(self.temporal(embed)[0])[0])

    def chunk(self, embed: Tensor, starts: bool, states: Sequence[BlockState]) -> tuple[Tensor, list[BlockState]]:
        """Run a part of a clip, after the blocks' states."""
        depth = len(self.temporal.blocks)
        x, temporal = self.temporal(embed, states[:depth])
        x, spatial = self.spatial(x, states[depth:])
        return self.pixels(x, starts), temporal + spatial

    def initial(self) -> list[BlockState]:
        """Return the states before the first chunk."""
        return self.temporal.initial() + self.spatial.initial()


class OmniTokenizer(nn.Module):
    """Turns images and clips into tokens or latents, and back.

    Pixels are uint8 RGB (B, T, H, W, 3), or floats in [-0.5, 0.5]; an image is a clip of one frame. Sizes that are not
    a multiple of the patch, and lengths that are not 1 + k * temporal_patch frames, are padded at the edge; `decode`
    crops when given the size.

    Args:
        config: the geometry.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.head: VQHead | VAEHead = VQHead(config) if config.is_vq else VAEHead(config)
        self.decoder = Decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        """Return the precision of encoder and decoder; the head may keep a higher one."""
        return self.encoder.embed.first.proj.weight.dtype

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Encode whole images or clips.

        Args:
            pixels: uint8 (B, T, H, W, 3), or floats in [-0.5, 0.5].
            generator: draws VAE latents; without it they are the mean. A VQ model takes none.

        Returns:
            VQ: int64 tokens (B, t, h, w). VAE: latents (B, t, h, w, c).

        Raises:
            PixelError: pixels of another shape, type or range.
            CodeError: a generator for a VQ model.
        """
        if isinstance(self.head, VQHead):
            if generator is not None:
                raise CodeError("A VQ model draws nothing: encode takes no generator.")
            return self._encoded(pixels)[1]
        mean, logvar = self._encoded(pixels)
        return mean if generator is None else self.head.sample(mean, logvar, generator)

    def encode_latents(self, pixels: Tensor) -> Tensor:
        """Encode to vectors (B, t, h, w, c): normalised ones before quantisation (VQ), the mean (VAE)."""
        return self._encoded(pixels)[0]

    def encode_both(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode to int64 tokens (B, t, h, w) and the unit vectors (B, t, h, w, d) before quantisation; VQ only."""
        if not isinstance(self.head, VQHead):
            raise CodeError("A VAE has no codebook to quantise with.")
        vectors, tokens = self._encoded(pixels)
        return tokens, vectors

    def encode_moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode to the mean and log variance of Gaussian latents, each (B, t, h, w, c); VAE only."""
        if not isinstance(self.head, VAEHead):
            raise CodeError("A VQ model has no Gaussian latents.")
        return self._encoded(pixels)

    def quantize(self, latents: Tensor) -> Tensor:
        """Return the tokens (...) of the codes nearest to vectors (..., d); VQ only."""
        if not isinstance(self.head, VQHead):
            raise CodeError("A VAE has no codebook to quantise with.")
        if not latents.is_floating_point():
            raise CodeError(f"Floating-point vectors are quantised, not {latents.dtype}.")
        self.check_codes(latents)
        return self.head.assign(latents)

    def decode(self, codes: Tensor, size: tuple[int, int, int] | None = None) -> Tensor:
        """Decode whole images or clips.

        Args:
            codes: VQ: integer tokens (B, t, h, w), or vectors (B, t, h, w, d), which are quantised. VAE: latents
                (B, t, h, w, c).
            size: (frames, height, width) to crop to, as they were before padding.

        Returns:
            uint8 (B, T, H, W, 3).

        Raises:
            CodeError: codes of another shape, type or range; a size that belongs to another grid.
        """
        self.check_codes(codes, size)
        return self.decode_checked(codes, size)

    def decode_checked(self, codes: Tensor, size: tuple[int, int, int] | None = None) -> Tensor:
        """Decode codes that `check_codes` took; it waits for no device."""
        pixels = self._decoded(codes)
        if size is None:
            return pixels
        frames, height, width = size
        return pixels[:, :frames, :height, :width]

    def check_codes(self, codes: Tensor, size: tuple[int, int, int] | None = None) -> None:
        """Refuse what `decode` does not take; values are read where they are, so a device must finish first.

        Raises:
            CodeError: codes of another shape, type or range; a size that belongs to another grid.
        """
        vector = codes.is_floating_point()
        if codes.dim() != 4 + vector or 0 in codes.shape:
            expected = "latents (B, t, h, w, c)" if vector else "tokens (B, t, h, w)"
            raise CodeError(f"Expected {expected}, none of them 0, not shape {tuple(codes.shape)}.")
        if vector and codes.shape[-1] != self.config.head.dim:
            raise CodeError(f"Latents need {self.config.head.dim} channels, not {codes.shape[-1]}.")
        if size is not None and (grid := self.config.geometry.grid(size)) != tuple(codes.shape[1:4]):
            raise CodeError(f"Size {size} has the grid {grid}, the codes have {tuple(codes.shape[1:4])}.")
        if vector:
            if codes.dtype not in FLOATS or not codes.isfinite().all():
                raise CodeError(f"Latents must be finite numbers, not {codes.dtype} with infinities or NaN among them.")
            return
        if codes.dtype == torch.bool or codes.is_complex():
            raise CodeError(f"Tokens must be integers, not {codes.dtype}.")
        if not isinstance(self.head, VQHead):
            raise CodeError(f"A VAE decodes floating-point latents, not {codes.dtype}.")
        low, high = (int(x) for x in codes.long().aminmax())
        if low < 0 or high >= len(self.head.codebook):
            raise CodeError(f"Tokens must be in [0, {len(self.head.codebook)}), not [{low}, {high}].")

    def reconstruct(self, pixels: Tensor) -> Tensor:
        """Encode and decode; uint8 of the shape of `pixels`."""
        check_pixels(pixels)
        frames, height, width = pixels.shape[1:4]
        return self.decode_checked(self.encode(pixels), (frames, height, width))

    def encode_chunk(
        self, pixels: Tensor, state: EncoderState | None = None, final: bool = False
    ) -> tuple[Tensor, EncoderState]:
        """Encode the next frames of a clip; any split of a clip gives the tokens of the whole.

        Args:
            pixels: as for `encode`, any number of frames; none where the clip only ends.
            state: what the chunk before returned; None starts a clip.
            final: pad the frames that fill no temporal patch and encode them too.

        Returns:
            The codes that became complete, as from `encode` (t may be 0), and the state for the next chunk.

        Raises:
            StreamError: the model sees later frames, the clip has ended, or the chunk does not continue it.
            PixelError: pixels of another shape, type or range.
        """
        self._check_streams()
        check_pixels(pixels, may_be_empty=state is not None)
        if state is None:
            state = EncoderState(pixels[:, :0], 0, self.encoder.initial())
        check_depth(state.blocks, len(self.encoder.initial()))
        waiting = state.join(pixels)
        head, group = int(state.frames == 0), self.config.temporal_patch
        if final and waiting.shape[1] > head:
            waiting = pad_to(waiting, 1, head + -(-(waiting.shape[1] - head) // group) * group)
        take = max(0, head + (waiting.shape[1] - head) // group * group)
        ready, rest = waiting[:, :take], waiting[:, take:].clone()
        if take == 0:
            height, width = waiting.shape[2:4]
            _, rows, columns = self.config.geometry.grid((1, height, width))
            empty = self.encoder.embed.first.proj.weight.new_zeros(len(waiting), 0, rows, columns, self.config.width)
            return self._to_codes(empty), EncoderState(rest, state.frames, state.blocks, final)
        ready = to_float(pad_space(ready, self.config.geometry), self.dtype)
        embed, blocks = self.encoder.chunk(ready, bool(head), state.blocks)
        return self._to_codes(embed), EncoderState(rest, state.frames + take, blocks, final)

    def decode_chunk(self, codes: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        """Decode the next latent frames of a clip; any split gives the pixels of the whole.

        Args:
            codes: as for `decode`, any number of latent frames.
            state: what the chunk before returned; None starts a clip.

        Returns:
            uint8 pixels (B, T, H, W, 3) with the padding still on, and the state for the next chunk.

        Raises:
            StreamError: the model sees later frames, or the chunk does not continue the state's clip.
            CodeError: codes of another shape, type or range.
        """
        self._check_streams()
        self.check_codes(codes)
        if state is None:
            state = DecoderState(tuple(codes.shape[:1] + codes.shape[2:4]), 0, self.decoder.initial())
        check_depth(state.blocks, len(self.decoder.initial()))
        state.check(codes)
        pixels, blocks = self.decoder.chunk(self._from_codes(codes), state.frames == 0, state.blocks)
        return to_uint8(pixels), DecoderState(state.shape, state.frames + codes.shape[1], blocks)

    def _encoded(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Encode to unit vectors and tokens (VQ), or to mean and log variance (VAE)."""
        check_pixels(pixels)
        return self.head(self.encoder(to_float(pad_clip(pixels, self.config.geometry), self.dtype)))

    def _to_codes(self, embed: Tensor) -> Tensor:
        """Return the tokens (VQ) or the mean latents (VAE) of the encoder's output."""
        return self.head(embed)[1 if isinstance(self.head, VQHead) else 0]

    def _decoded(self, codes: Tensor) -> Tensor:
        return to_uint8(self.decoder(self._from_codes(codes)))

    def _from_codes(self, codes: Tensor) -> Tensor:
        if isinstance(self.head, VQHead):
            tokens = self.head.assign(codes) if codes.is_floating_point() else codes.long()
            codes = self.head.lookup(tokens)
        return self.head.expand(codes).to(self.dtype)

    def _check_streams(self) -> None:
        if not self.config.streams:
            raise StreamError(
                "This model sees later frames, so it takes whole clips only: "
                f"temporal_order={self.config.temporal_order!r}, causal_attention={self.config.causal_attention}, "
                f"causal_peg={self.config.causal_peg}."
            )
