"""Chunks of clips on a network, and the state between two of them as arrays that any process may carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import requested_backend, use_backend
from kernels.runtime import jit
from model.tokenizer.layers import BlockState
from model.tokenizer.streaming import DecoderState, EncoderState
from model.tokenizer.tokenizer import OmniTokenizer
from service.chunks import ChunkInput, ChunkOutput, ClipState
from service.engine.transfers import to_host
from service.types import Op


def run_chunk(tokenizer: OmniTokenizer, op: Op, chunk: ChunkInput, device: torch.device) -> ChunkOutput:
    """Encode or decode one chunk. It waits for no kernel's compilation: torch's operators stand in.

    Args:
        tokenizer: one that streams.
        op: "encode_chunk" or "decode_chunk".
        chunk: the next part of a clip.
        device: the tokenizer's.
    """
    run = _encode if op == "encode_chunk" else _decode
    if device.type == "cpu" or requested_backend() != "auto":
        return run(tokenizer, chunk, device)
    try:
        with jit.raise_if_missing():
            return run(tokenizer, chunk, device)
    except jit.KernelNotReadyError:
        with use_backend("torch"):
            return run(tokenizer, chunk, device)


def _encode(tokenizer: OmniTokenizer, chunk: ChunkInput, device: torch.device) -> ChunkOutput:
    state = None
    if chunk.state is not None:
        pending, *blocks = _tensors(chunk.state.arrays, device)
        assert pending is not None
        state = EncoderState(pending, chunk.state.frames, _paired(blocks))
    codes, after = tokenizer.encode_chunk(_tensor(chunk.array, device)[None], state, chunk.final)
    codes = codes[0].float() if codes.is_floating_point() else codes[0].int()
    return _output(codes, after.frames, [after.pending, *(x for pair in after.blocks for x in pair)])


def _decode(tokenizer: OmniTokenizer, chunk: ChunkInput, device: torch.device) -> ChunkOutput:
    codes = _tensor(chunk.array, device)[None]
    codes = codes if codes.is_floating_point() else codes.long()
    state = None
    if chunk.state is not None:
        shape = tuple(codes.shape[:1] + codes.shape[2:4])
        state = DecoderState(shape, chunk.state.frames, _paired(_tensors(chunk.state.arrays, device)))
    pixels, after = tokenizer.decode_chunk(codes, state)
    return _output(pixels[0], after.frames, [x for pair in after.blocks for x in pair])


def _paired(tensors: Sequence[Tensor | None]) -> list[BlockState]:
    return [BlockState(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)]


def _tensors(arrays: Sequence[NDArray[Any] | None], device: torch.device) -> list[Tensor | None]:
    return [None if array is None else _tensor(array, device) for array in arrays]


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    if not array.flags.writeable:  # as arrays in shared memory are; torch warns of them
        array = array.copy()
    tensor = torch.from_numpy(array)
    return (tensor.view(torch.bfloat16) if array.dtype == np.int16 else tensor).to(device)


def _output(result: Tensor, frames: int, state: Sequence[Tensor | None]) -> ChunkOutput:
    """Return what a chunk came to; of a GPU all arrays are copied at a time."""
    tensors = [None if tensor is None else _plain(tensor) for tensor in (result, *state)]
    if result.is_cuda:
        tensors = [None if tensor is None else to_host(tensor) for tensor in tensors]
        torch.cuda.current_stream(result.device).synchronize()
    array, *arrays = [None if tensor is None else tensor.numpy() for tensor in tensors]
    assert array is not None
    return ChunkOutput(array, ClipState(frames, tuple(arrays)))


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor that numpy can have; it knows no bfloat16."""
    tensor = tensor.contiguous()
    return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
