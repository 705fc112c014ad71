"""A whole decode step without a GPU: its kernel emulated and compiled ahead of time, the definition, refusals."""

from __future__ import annotations

import re

import pytest
import torch
from absent_gpu import capability, on_gpu, refusal
from ahead import MAX_SHARED_BYTES, compiled_for, needs_compiler, spill_bytes
from gluon_emulation import EmulatedKernel, RaceError

from kernels.decode_step import StepProduct, decode_step, launch, make_state, pack
from kernels.decode_step.reference import FLAGS, StepArgs
from kernels.decode_step.reference import decode_step as definition
from model.generator.config import LANGUAGE_MODELS, LanguageModelConfig
from model.generator.lm import LanguageModel
from model.inference.language_model import PackedLanguageModel

PROGRAMS = 11
BARRIERS = 5  # of a layer
TILE = launch.Tile(8, 3)


def draw(rows=2, layers=2, width=256, heads=4, vocabulary=101, positions=70, lengths=(70, 33), seed=0) -> StepArgs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    def product(columns: int, inner: int, normed: bool = False) -> StepProduct:
        weight = normal(columns, inner) * inner**-0.5
        if normed:  # as `fold` leaves it
            weight = weight - weight.mean(1, keepdim=True)
        return StepProduct(weight, 0.1 * normal(columns))

    products = []
    for _ in range(layers):
        products += [product(3 * width, width, True), product(width, width)]
        products += [product(4 * width, width, True), product(width, 4 * width)]
    weights, biases = pack([*products, product(vocabulary, width, True)], width)
    cache = normal(layers, 2, rows + 1, heads, positions, width // heads)
    slots = torch.randperm(rows + 1, generator=generator)[:rows].int()
    counts = torch.tensor(lengths, dtype=torch.int32)
    return StepArgs(normal(rows, width) + 0.5, weights, biases, cache, slots, counts, vocabulary, make_state("cpu"))


def exact(args: StepArgs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the definition's logits and cache in float64."""
    x, weights, biases, cache = (tensor.double() for tensor in args[:4])
    return definition(args._replace(x=x, weights=weights, biases=biases, cache=cache)), cache


def emulate(args: StepArgs, tile=TILE, programs=PROGRAMS, **options) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "decode_step_kernel", EmulatedKernel(**{"seed": 0} | options))
        return launch.decode_step(args, tile, programs)


@pytest.mark.parametrize(
    ("shape", "tile", "programs"),
    [
        ({}, launch.Tile(8, 3), 11),
        ({}, launch.Tile(4, 16), 8),
        ({"rows": 1, "lengths": (70,)}, launch.Tile(4, 2), 13),
        ({"lengths": (1, 0)}, launch.Tile(8, 5), 17),
        ({"lengths": (2, 69)}, launch.Tile(8, 200, splits=1), 9),
        ({"width": 768, "heads": 8, "layers": 1, "positions": 400, "lengths": (400, 131)}, launch.Tile(8, 4), 37),
    ],
)
def test_kernel_equals_the_definition(shape, tile, programs):
    args = draw(**shape)
    wanted, cache = exact(args)
    found = emulate(args, tile, programs)
    live = args.lengths > 0
    torch.testing.assert_close(found[live], wanted[live].float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(args.cache, cache.float(), rtol=1e-4, atol=1e-5)
    assert not args.state[0]


def test_result_is_of_no_schedule_and_no_number_of_programs():
    found = [emulate(draw(layers=1), seed=seed) for seed in range(4)]
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_steps_follow_one_another_past_the_largest_generation():
    args = draw(layers=1)
    args.state[FLAGS:] = (1 << 31) - 2
    for lengths in ((70, 33), (69, 34)):
        args = args._replace(lengths=torch.tensor(lengths, dtype=torch.int32))
        wanted, _ = exact(args)
        torch.testing.assert_close(emulate(args), wanted.float(), rtol=1e-4, atol=1e-5)
    flags = args.state[FLAGS : FLAGS + PROGRAMS]
    assert set(flags.tolist()) == {(1 << 31) - 2 + 2 * BARRIERS - (1 << 32)}


@pytest.mark.parametrize("barrier", range(1, BARRIERS + 1))
def test_no_barrier_is_idle(barrier):
    with pytest.raises(RaceError):
        emulate(draw(), skipped=barrier)


def test_a_program_that_never_comes_does_not_hold_up_the_others():
    args = draw(layers=1)
    emulate(args, launch.Tile(8, 3, polls=50), missing=frozenset({4}))
    assert args.state[0] == 1


def test_definition_equals_the_engines_step():
    torch.manual_seed(0)
    config: LanguageModelConfig = LANGUAGE_MODELS["lm-debug"]
    model = LanguageModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    network = PackedLanguageModel(model, torch.device("cpu"), torch.float32)
    products = [StepProduct(item.weight, item.bias) for layer in network.layers for item in layer]
    packed = pack([*products, StepProduct(network.head.weight, network.head.bias)], config.width)
    caches = [network.make_cache(2) for _ in range(2)]
    for cache in caches:
        cache.data.copy_(torch.linspace(-1, 1, cache.data.numel()).view_as(cache.data))
    x, rows = torch.randn(2, config.width), torch.tensor([1, 0], dtype=torch.int32)
    lengths = torch.tensor([9, 10], dtype=torch.int32)
    wanted = network.step(x, caches[0], rows, lengths)
    found = decode_step(x, *packed, caches[1].data, rows, lengths, config.vocabulary, make_state("cpu"))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(caches[1].data, caches[0].data)


@needs_compiler
@pytest.mark.parametrize(("rows", "width", "heads"), [(1, 1536, 16), (2, 1536, 16), (2, 1024, 16), (2, 256, 4)])
def test_kernel_compiles_ahead(rows, width, heads):
    cache = torch.zeros(1).bfloat16().expand(24, 2, 2, heads, 1026, width // heads)
    x, slots = torch.zeros(rows, width).bfloat16(), torch.zeros(rows, dtype=torch.int32)
    weights, biases = torch.zeros(64, width).bfloat16(), torch.zeros(64)
    tiles = [None] if width < 1536 else [None, launch.Tile(4, 16), launch.Tile(8, 4, splits=2, cooperative=False)]
    with compiled_for(90) as compiled:
        for tile in tiles:
            launch.decode_step(StepArgs(x, weights, biases, cache, slots, slots, 9193, make_state("cpu")), tile, 132)
    for kernel in compiled:
        assert spill_bytes(kernel) == 0
        assert kernel.metadata.shared <= MAX_SHARED_BYTES[90]
        assert len(re.findall(r"cp\.async\.bulk\.tensor", kernel.asm["ptx"])) >= 6  # the first chunks, five products
        assert len(re.findall(r"st\.release\.gpu", kernel.asm["ptx"])) == BARRIERS
        assert len(re.findall(r"ld\.acquire\.gpu", kernel.asm["ptx"])) == BARRIERS


def test_launch_needs_a_program_for_every_head():
    with pytest.raises(ValueError, match="2 rows of 4 heads in 0 parts need more than 7 multiprocessors"):
        emulate(draw(), programs=7)


@pytest.mark.usefixtures("_gpu")
def test_unsupported_calls():
    def unsupported(rows=2, width=256, heads=4, pieces=3088, **others) -> str | None:
        given = {
            "x": on_gpu(rows, width),
            "weights": on_gpu(pieces, width),
            "biases": on_gpu(pieces, dtype=torch.float32),
            "cache": on_gpu(1, 2, 3, heads, 8, width // heads),
            "slots": on_gpu(rows, dtype=torch.int32),
            "lengths": on_gpu(rows, dtype=torch.int32),
            "vocabulary": 5,
            "state": make_state("cpu"),
        }
        return refusal(decode_step, **given | others)

    assert unsupported() is None
    assert "R=3 must be at most 2" in unsupported(3)
    assert "C=320 must be a multiple of 256" in unsupported(width=320)
    assert "head_dim=16 must be a multiple of 32" in unsupported(heads=16)
    assert "R=2 and H=40 must have a product of at most 64" in unsupported(width=1280, heads=40)
    assert "must be (3088, 256)" in unsupported(pieces=3072)
    assert "biases are torch.bfloat16" in unsupported(biases=on_gpu(3088))
    assert "lengths are torch.int32 and torch.int64" in unsupported(lengths=on_gpu(2, dtype=torch.int64))
    assert "a state of 4 torch.int32 must come from make_state" in unsupported(state=on_gpu(4, dtype=torch.int32))
    assert "must be contiguous" in unsupported(cache=on_gpu(1, 2, 3, 4, 64, 8).transpose(4, 5))
    with capability(10, 0):
        assert "compute capability 10.0 must be 9.0" in unsupported()
