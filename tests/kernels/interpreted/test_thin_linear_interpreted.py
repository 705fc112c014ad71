"""Products with few rows in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch

from kernels.runtime.dispatch import Implementation
from kernels.thin_linear import launch, op, quantize_rows
from kernels.thin_linear import thin_linear as operator
from kernels.thin_linear.launch import Tile
from kernels.thin_linear.reference import MIN_COUNTERS, ThinArgs, moments_of, thin_linear
from model.generator.config import GENERATOR_CONFIGS
from model.generator.lm import LanguageModel
from model.inference import language_model

HELD = [Tile("held", 16, 8, warps=2), Tile("held", 16, 16, 2, warps=1), Tile("held", 16, 16)]
STREAMED = [
    Tile("streamed", 16, 32, inner=16),
    Tile("streamed", 16, 16, 2, inner=32, stages=2),
    Tile("streamed", 32, 32, 4, inner=16),
]
WITH_MOMENTS = [
    Tile("streamed", 32, 64, inner=32, swapped=True, fetched=False),
    Tile("streamed", 32, 32, 2, inner=32, swapped=True, described=True),
    Tile("streamed", 64, 64, 2, inner=64, described=True),
]
VECTOR = Tile("vector", 3, 4, warps=1, inner=256)


def draw(rows, columns, inner, **others):
    torch.manual_seed(0)
    weight = torch.randn(columns, inner)
    weight = (weight - weight.mean(1, keepdim=True)) * inner**-0.5
    return ThinArgs(torch.randn(rows, inner) + 2, weight, torch.randn(columns), torch.randn(rows, columns), **others)


def right(args):
    exact = (x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in args)
    return thin_linear(ThinArgs(*exact)._replace(moments=None))


def check(args, tile=None):
    found = launch.thin_linear(args, tile)
    torch.testing.assert_close(found.double(), right(args), rtol=1e-5, atol=1e-5)
    return found


@pytest.mark.parametrize("rows", [1, 8, 13, 37])
@pytest.mark.parametrize("tile", HELD)
def test_held_weights_equal_float64(rows, tile):
    check(draw(rows, 40, 128, gelu=rows == 8, normed=True), tile)
    check(draw(rows, 40, 96), tile)


@pytest.mark.parametrize(("rows", "columns", "inner"), [(1, 5, 16), (3, 33, 512), (2, 9, 304)])
@pytest.mark.parametrize("normed", [True, False])
def test_vectors_equal_float64(rows, columns, inner, normed):
    check(draw(rows, columns, inner, normed=normed, gelu=normed), VECTOR)


@pytest.mark.parametrize("tile", STREAMED)
def test_streamed_weights_equal_float64(tile):
    check(draw(19, 40, 64, gelu=True, normed=True), tile)
    check(draw(70, 40, 64), tile)


@pytest.mark.parametrize("tile", [*WITH_MOMENTS, None])
def test_norms_by_moments_equal_float64(tile):
    """A product leaves the moments of its result, and the next one takes them."""
    first = draw(37, 128, 128)
    first = first._replace(moments=torch.full((37, 4, 2), torch.nan), residual=first.residual + 3)
    x = check(first, tile)
    torch.testing.assert_close(first.moments, moments_of(x, 4), rtol=1e-5, atol=1e-4)
    check(draw(37, 70, 128, normed=True, gelu=True)._replace(x=x, residual=None, moments=first.moments), tile)


@pytest.mark.parametrize(
    ("rows", "columns", "inner"), [(3, 33, 1552), (2, 5, 16), (33, 20, 48), (66, 70, 1600), (20, 20, 1552)]
)
def test_default_tiles_equal_float64(rows, columns, inner):
    check(draw(rows, columns, inner, normed=rows == 2))
    check(draw(rows, columns, inner)._replace(bias=None, residual=None))


@pytest.mark.parametrize("tile", [HELD[1], STREAMED[1]])
def test_counters_are_left_zero_and_change_nothing(tile):
    counters = torch.zeros(MIN_COUNTERS, dtype=torch.int32)
    args = draw(20, 40, 64)
    wanted = check(args, tile)
    for _ in range(2):
        assert torch.equal(launch.thin_linear(args._replace(counters=counters), tile), wanted)
        assert not counters.any()


@pytest.mark.parametrize("tile", [HELD[1], STREAMED[1]])
def test_counters_that_are_too_few_are_left_alone(tile):
    memory = torch.full((64,), 7, dtype=torch.int32)
    memory[0] = 0
    check(draw(20, 40, 64)._replace(counters=memory[:1]), tile)
    assert memory[1:].eq(7).all()


@pytest.mark.parametrize("tile", [HELD[0], STREAMED[0], VECTOR])
def test_int8_weights(tile):
    args = draw(2, 24, 64, normed=True)
    weight, scale = quantize_rows(args.weight)
    check(args._replace(weight=weight, scale=scale), tile)


@pytest.mark.parametrize("tile", [HELD[0], STREAMED[1]])
def test_rows_do_not_depend_on_each_other(tile):
    args = draw(12, 24, 64, normed=True)
    alone = args._replace(x=args.x[3:4], residual=args.residual[3:4])
    assert torch.equal(launch.thin_linear(args, tile)[3:4], launch.thin_linear(alone, tile))


@pytest.mark.parametrize("tile", WITH_MOMENTS)
def test_rows_with_moments_do_not_depend_on_each_other(tile):
    """Rows that left a step hold anything, which reaches none of those that stay."""

    def run(args):
        args = args._replace(moments=torch.full((len(args.x), 4, 2), torch.nan))
        x = launch.thin_linear(args, tile)
        weight, scale = quantize_rows(args.weight)
        return x, launch.thin_linear(ThinArgs(x, weight, None, None, scale, normed=True, moments=args.moments), tile)

    args = draw(40, 128, 128)
    args.x[[0, 2, 39]] = torch.tensor([[torch.nan], [torch.inf], [1e30]])
    for row in (3, 33):
        alone = args._replace(x=args.x[row : row + 1], residual=args.residual[row : row + 1])
        for among, one in zip(run(args), run(alone), strict=True):
            torch.testing.assert_close(among[row : row + 1], one)  # NumPy's products differ in the last bit by place


def test_output_dtype_and_no_rows():
    half = ThinArgs(*(x.half() if torch.is_tensor(x) else x for x in draw(2, 24, 64)))
    assert op.thin_linear(*half).dtype == torch.float16
    assert op.thin_linear(*half._replace(full_precision=True)).dtype == torch.float32
    assert op.thin_linear(half.x[:0], half.weight).shape == (0, 24)


def test_operator_passes_opcheck():
    torch.library.opcheck(op.thin_linear, tuple(draw(2, 24, 64)))
    args = draw(2, 64, 64)._replace(moments=torch.zeros(2, 1, 2))
    torch.library.opcheck(op.thin_linear_with_moments, tuple(args))
    torch.library.opcheck(op.thin_linear, tuple(args._replace(residual=None, normed=True)))


def test_calls_without_moments_to_write_change_no_argument_for_torch():
    """Torch 2.11 finds a mutated argument by its position, so that none may be left out."""
    for call in (torch.ops.omnitok.thin_linear.default, torch.ops.omnitok.thin_linear_with_moments.default):
        changed = [one for one in call._schema.arguments if one.alias_info is not None and one.alias_info.is_write]
        assert [one.name for one in changed if one.has_default_value()] == []
        assert bool(changed) == (call.name() == "omnitok::thin_linear_with_moments")


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("parts", [0, 1])
def test_a_step_of_a_language_model_equals_the_definition(mode, parts):
    """With moments and without, through torch's dispatcher, where the weights are none of inference mode."""
    torch.manual_seed(0)
    config = replace(GENERATOR_CONFIGS["lm-debug"], width=64)
    network = language_model.PackedLanguageModel(LanguageModel(config), torch.device("cpu"), torch.float32)
    x, slots, lengths = torch.randn(3, 64), torch.arange(3, dtype=torch.int32), torch.ones(3, dtype=torch.int32)

    def step():
        with mode():
            return network.step(x.clone(), network.make_cache(3), slots, lengths)

    wanted = step()
    with (
        mock.patch.dict(operator.implementations, triton=Implementation(op.run)),
        mock.patch.object(language_model, "moments_for", lambda x: x.new_empty((len(x), parts, 2)) if parts else None),
    ):
        torch.testing.assert_close(step(), wanted, rtol=1e-4, atol=1e-4)
