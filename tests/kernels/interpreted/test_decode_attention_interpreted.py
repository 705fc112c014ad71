"""Decode attention in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels.decode_attention import launch, op
from kernels.decode_attention.launch import Tile
from kernels.decode_attention.reference import MIN_COUNTERS, DecodeArgs, decode_attention

LENGTHS = [17, 0, 33, 1, 16]


def draw(dim=16, dtype=torch.float32, lengths=LENGTHS, positions=40):
    torch.manual_seed(0)
    cache = torch.randn(2, 7, 2, positions, dim).to(dtype)
    slots = torch.tensor([4, 0, 2, 6, 1][: len(lengths)], dtype=torch.int32)
    return DecodeArgs(torch.randn(len(lengths), 3, 2, dim), cache, slots, torch.tensor(lengths, dtype=torch.int32))


def check(args, tile):
    wanted_args = args._replace(qkv=args.qkv.double(), cache=args.cache.clone())
    wanted = decode_attention(wanted_args)
    found = launch.decode_attention(args, tile)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(args.cache.float(), wanted_args.cache.float())
    return found


@pytest.mark.parametrize(
    "tile",
    [
        Tile(1, 1, 1),
        Tile(1, 1, 2, stages=4),
        Tile(2, 1, 2),
        Tile(2, 1, 1, stages=2),
        Tile(8, 1, 1),
        Tile(1, 4, 2),
        Tile(1, 1, 2, early=True),
        Tile(2, 1, 2, stages=2, early=True),
        Tile(8, 1, 1, fetched=False, early=True),
    ],
)
def test_equals_float64(tile):
    """With one chunk of positions and several, of one program and several, and programs without any."""
    check(draw(), tile)
    check(draw(lengths=[150, 129, 1], positions=160), tile)


@pytest.mark.parametrize("dim", [24, 64, 136])
def test_head_dims(dim):
    check(draw(dim), Tile(2, 1, 2, stages=3))


@pytest.mark.parametrize("rows", [2, 3, 17, 33])
def test_default_tiles(rows):
    args = draw(lengths=[rows, 33])
    rest = DecodeArgs(args.qkv.repeat(rows, 1, 1, 1)[:rows], args.cache, args.slots.repeat(rows)[:rows], args.lengths)
    lengths = torch.cat((args.lengths, torch.zeros(rows, dtype=torch.int32)))[:rows]
    check(rest._replace(lengths=lengths), None)


def test_a_float8_cache():
    """The interpreter rounds to float8 wrongly where the exponent grows, so that new values are powers of two."""
    args = draw(dtype=torch.float8_e4m3fn)
    args = args._replace(qkv=args.qkv.sign())
    wanted_args = args._replace(cache=args.cache.clone())
    torch.testing.assert_close(launch.decode_attention(args), decode_attention(wanted_args), rtol=0, atol=0.02)
    assert torch.equal(args.cache.float(), wanted_args.cache.float())


def test_a_row_depends_on_itself_alone():
    """Compare the bits among any rows and alone, in a pipeline and without."""
    args = draw()
    crowd = check(args, Tile(2, 1, 1))
    alone = DecodeArgs(args.qkv[2:3], args.cache, args.slots[2:3], args.lengths[2:3])
    assert torch.equal(check(alone, Tile(2, 1, 1)), crowd[2:3])
    assert torch.equal(check(args, Tile(2, 1, 1, stages=3)), crowd)


@pytest.mark.parametrize("lengths", [LENGTHS, [150, 129, 1]], ids=str)
def test_early_loads_change_no_bit(lengths):
    args = draw(lengths=lengths, positions=160)
    for tile in (Tile(1, 1, 2), Tile(2, 1, 2), Tile(8, 1, 1)):
        assert torch.equal(check(args, replace(tile, early=True)), check(args, tile))


@pytest.mark.parametrize("early", [False, True])
def test_unwritten_memory_is_not_used(early):
    args, tile = draw(), Tile(2, 1, 2, early=early)
    wanted = check(args, tile)
    for slot, length in zip(args.slots.tolist(), args.lengths.tolist(), strict=True):
        args.cache[:, slot, :, max(length - 1, 0) :] = torch.nan
    assert torch.equal(launch.decode_attention(args, tile), wanted)


def test_counters_are_left_zero():
    args = draw()._replace(counters=torch.zeros(MIN_COUNTERS, dtype=torch.int32))
    for _ in range(2):
        check(args, Tile(4, 1, 1))
        assert not args.counters.any()


def test_rows_of_length_zero_and_no_rows():
    args = draw(lengths=[0, 0])
    before = args.cache.clone()
    assert not launch.decode_attention(args).any()
    assert torch.equal(args.cache, before)
    assert op.attend(*draw(lengths=[])).shape == (0, 2, 16)


def test_operator_passes_opcheck():
    torch.library.opcheck(op.attend, tuple(draw()))
