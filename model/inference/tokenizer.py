"""The tokenizer behind its usual interface, on prepared weights and captured graphs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from kernels.runtime import jit
from model.geometry import Size
from model.inference.graphs import Graphs
from model.inference.network import Network
from model.tokenizer.heads import VAEHead, VQHead
from model.tokenizer.patches import check_pixels, pad_clip
from model.tokenizer.tokenizer import OmniTokenizer

BATCHES = (1, 2, 4, 8, 16, 32, 64)


class CompiledTokenizer(OmniTokenizer):
    """An `OmniTokenizer` for inference: the same calls, several times as fast on a GPU.

    Whole images and clips of uint8 pixels, and what they are decoded from, run through `Network`; floats and chunks of
    streams take the modules' own way. Sizes that were captured run as one launch. It is used from one thread.

    Args:
        tokenizer: on its device, in its precision; its modules are shared and must not change afterwards.

    Attributes:
        network: what runs.
        encoding, decoding: the same on captured shapes, for input that has been padded and checked.
    """

    def __init__(self, tokenizer: OmniTokenizer) -> None:
        nn.Module.__init__(self)
        self.config = tokenizer.config
        self.encoder, self.head, self.decoder = tokenizer.encoder, tokenizer.head, tokenizer.decoder
        self.eval().requires_grad_(False)
        with torch.inference_mode():
            self.network = Network(self)
        self._device = self.encoder.embed.first.proj.weight.device
        pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None
        self.encoding = Graphs(self.network.encode, pool)
        self.decoding = Graphs(lambda codes: (self.network.decode(codes),), pool)

    @torch.inference_mode()
    def prepare(self, shapes: Iterable[tuple[int, int, int, int]], wait: bool = True) -> None:
        """Compile the kernels that encoding and decoding take, all of them side by side; on a CPU there are none.

        Args:
            shapes: batch, frames, height and width in pixels.
            wait: return when they are ready; else they are compiled in the background.
        """
        if self._device.type != "cuda":
            return
        with torch.cuda.device(self._device), jit.compile_all(wait):
            self.run_once(shapes)

    @torch.inference_mode()
    def run_once(self, shapes: Iterable[tuple[int, int, int, int]]) -> None:
        """Encode and decode examples of these shapes, as `prepare` takes them, for the kernels that they launch."""
        for batch, frames, height, width in shapes:
            pixels, codes = self._examples(batch, (frames, height, width))
            self.network.encode(pixels)
            self.network.decode(codes)

    @torch.inference_mode()
    def capture(self, size: Size, batches: Sequence[int] = BATCHES) -> None:
        """Capture graphs of encoding and decoding images or clips of one size; on a CPU there is nothing to capture.

        Kernels that `prepare` has not compiled are compiled one after the other.

        Args:
            size: frames, height and width in pixels; others that are padded to the same are served as well.
            batches: numbers of items; a batch runs on the next larger one.
        """
        if self._device.type != "cuda":
            return
        for batch in sorted(batches, reverse=True):  # the largest first, so that the others fit into its memory
            pixels, codes = self._examples(batch, size)
            self.encoding.capture(pixels)
            self.decoding.capture(codes)

    def _examples(self, batch: int, size: Size) -> tuple[Tensor, Tensor]:
        """Return black pixels, and codes or latents of zeros."""
        grid = self.config.geometry.grid(size)
        pixels = torch.zeros(batch, *self.config.geometry.size(grid), 3, dtype=torch.uint8, device=self._device)
        if isinstance(self.head, VAEHead):
            return pixels, torch.zeros(batch, *grid, self.config.head.dim, device=self._device)
        return pixels, torch.zeros(batch, *grid, dtype=torch.int64, device=self._device)

    @torch.inference_mode()
    def _encoded(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        if pixels.dtype != torch.uint8:
            return super()._encoded(pixels)
        check_pixels(pixels)
        first, second = self.encoding(pad_clip(pixels, self.config.geometry).contiguous())
        return first, second

    def _decoded(self, codes: Tensor) -> Tensor:
        if isinstance(self.head, VQHead):
            codes = self.head.assign(codes) if codes.is_floating_point() else codes.long()
        return self.decoding(codes)[0]
