"""The operators of a decode step: definitions and library calls."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from kernels.decode_attention import decode_attention
from kernels.linear import fold
from kernels.thin_linear import quantize_rows, thin_linear


def draw_attention(dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    cache = torch.randn(2, 5, 2, 9, 8).to(dtype)
    slots = torch.tensor([2, 0, 4, 1], dtype=torch.int32)
    return torch.randn(4, 3, 2, 8), cache, slots, torch.tensor([3, 0, 9, 1], dtype=torch.int32)


def unwritten(cache: torch.Tensor, *rows: tuple[int, int]) -> torch.Tensor:
    """Return a copy without the written positions (slot, position)."""
    kept = cache.float().clone()
    for slot, position in rows:
        kept[:, slot, :, position] = 0
    return kept


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn])
def test_attention_equals_attention_over_the_whole_sequence(backend, dtype):
    qkv, cache, slots, lengths = draw_attention(dtype)
    before = cache.clone()
    found = decode_attention.run_on(backend, qkv, cache, slots, lengths)
    written = [(2, 2), (4, 8), (1, 0)]
    assert torch.equal(unwritten(cache, *written), unwritten(before, *written))
    assert not found[1].any()
    for row, (slot, position) in zip((0, 2, 3), written, strict=True):
        new = qkv[row, 1:].to(dtype)
        assert torch.equal(cache[:, slot, :, position].float(), new.float())
        keys, values = cache[:, slot, :, : position + 1].float()
        weights = (keys @ qkv[row, 0][..., None] / 8**0.5).softmax(1)
        torch.testing.assert_close(found[row], (weights * values).sum(1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_rows_of_length_zero_write_nothing(backend):
    qkv, cache, slots, lengths = draw_attention()
    before = cache.clone()
    assert not decode_attention.run_on(backend, qkv, cache, slots, torch.zeros_like(lengths)).any()
    assert torch.equal(cache, before)
    decode_attention.run_on(backend, qkv, cache, torch.full_like(slots, 3), torch.tensor([0, 1, 0, 0]).int())
    assert torch.equal(cache[:, 3, :, 0], qkv[1, 1:])  # also where they share the slot of an active row
    assert torch.equal(unwritten(cache, (3, 0)), unwritten(before, (3, 0)))


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_unwritten_memory_does_not_reach_a_row(backend):
    qkv, cache, slots, lengths = draw_attention()
    wanted = decode_attention.run_on(backend, qkv, cache, slots, lengths)
    for slot, length in zip(slots.tolist(), lengths.tolist(), strict=True):
        cache[:, slot, :, length:] = torch.nan
    assert torch.equal(decode_attention.run_on(backend, qkv, cache, slots, lengths), wanted)


def test_large_values_are_clamped_in_a_float8_cache():
    qkv, cache, slots, lengths = draw_attention(torch.float8_e4m3fn)
    decode_attention(1000 * qkv.sign(), cache, slots, lengths)
    assert cache[:, 1, :, 0].float().abs().eq(448).all()


def test_products_with_a_folded_norm_gelu_and_residual():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 64) + 1, torch.randn(20, 64), torch.randn(20)
    gamma, beta, residual = torch.rand(64) + 0.5, torch.randn(64), torch.randn(3, 20)
    folded = fold(gamma, beta, weight, bias, torch.float32)
    wanted = F.gelu(F.linear(F.layer_norm(x, (64,), gamma, beta), weight, bias)) + residual
    found = thin_linear(x, *folded, residual, normed=True, gelu=True)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(thin_linear(x, weight), x @ weight.T, rtol=1e-4, atol=1e-4)
    logits = thin_linear(x.bfloat16(), weight.bfloat16(), bias, full_precision=True)
    assert logits.dtype == torch.float32
    assert thin_linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16


def test_quantized_rows_stay_near_and_sum_to_zero():
    torch.manual_seed(0)
    weight = torch.randn(40, 96)
    weight = weight - weight.mean(1, keepdim=True)
    rows, scale = quantize_rows(weight)
    assert rows.dtype == torch.int8
    assert not rows.float().sum(1).any()
    assert ((rows * scale[:, None] - weight).abs() <= scale[:, None] * 1.001).all()
    x = torch.randn(2, 96) + 5
    exact = x @ weight.T
    torch.testing.assert_close(thin_linear(x, rows, scale=scale), exact, rtol=0, atol=0.02 * exact.abs().max().item())
    assert not quantize_rows(torch.zeros(2, 8))[0].any()
