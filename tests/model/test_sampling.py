"""The sampler: frequencies, membership, guidance and seeds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.sample_tokens.reference import fixed_point_exp, gumbel, log, philox
from model.config_checks import ConfigError
from model.generator.limits import MAX_SEED
from model.generator.sampling import RowSampling, SamplingParams, row_seed, sample

seeds = st.integers(0, MAX_SEED)
DRAWS = 4000


def draws(logits: torch.Tensor, params: SamplingParams, unconditional: torch.Tensor | None = None) -> torch.Tensor:
    """Draw DRAWS ids, one for each step of one seed."""
    rows = RowSampling(*(x.expand(DRAWS) for x in RowSampling.of([params])))
    others = None if unconditional is None else unconditional.expand(DRAWS, -1)
    return sample(logits.expand(DRAWS, -1), others, rows, torch.arange(DRAWS))


def kept_by_definition(x: torch.Tensor, top_k: int, top_p: float) -> set[int]:
    """Filter in float64, value by value."""
    k = top_k or len(x)
    kept = {i for i in range(len(x)) if (x > x[i]).sum() < k}
    p = {i: math.exp(x[i] - x.max()) for i in kept}
    return {i for i in kept if sum(p[j] for j in kept if x[j] > x[i]) <= top_p * sum(p.values())}


@pytest.mark.parametrize(
    ("words", "seed", "block", "step"),
    [  # published test vectors of Philox-4x32-10 whose counter ends in zeros
        ((0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8), 0, 0, 0),
    ],
)
def test_philox_gives_the_published_words(words, seed, block, step):
    found = philox(*(torch.tensor([value]) for value in (seed, block, step)))
    assert tuple(int(word) for word in found) == words


def test_the_written_out_functions_are_accurate():
    u = torch.logspace(-9, 1.2, 5000)
    torch.testing.assert_close(log(u, u - 1).double(), u.double().log(), rtol=3e-7, atol=3e-7)
    x = -torch.linspace(0, 9, 1000)
    torch.testing.assert_close(fixed_point_exp(x).double() * 2**-30, x.double().exp(), rtol=1e-6, atol=2e-9)
    assert int(fixed_point_exp(torch.tensor(-math.inf))) == 0


def test_noise_is_gumbel_and_differs_between_ids_steps_and_seeds():
    noise = gumbel(torch.tensor([1, 1, 2]), torch.tensor([0, 1, 0]), 9193)
    assert abs(float(noise.mean()) - 0.5772) < 0.02
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.04
    assert noise.unique().numel() > 0.999 * noise.numel()
    assert torch.corrcoef(noise).triu(1).abs().max() < 0.04
    assert torch.equal(gumbel(torch.tensor([1]), torch.tensor([0]), 100), noise[:1, :100])  # of the id, not the count


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=1),
        SamplingParams(temperature=0.5, seed=2),
        SamplingParams(top_k=7, seed=3),
        SamplingParams(top_p=0.8, seed=4),
        SamplingParams(temperature=1.5, top_k=12, top_p=0.9, guidance=2.0, seed=5),
    ],
    ids=str,
)
def test_frequencies_match_the_distribution(params):
    generator = torch.Generator().manual_seed(7)
    cond, uncond = torch.randn(2, 20, generator=generator)
    x = ((1 - params.guidance) * uncond + params.guidance * cond) / params.temperature
    kept = sorted(kept_by_definition(x, params.top_k, params.top_p))
    expected = DRAWS * x[kept].softmax(-1)
    found = draws(cond, params, uncond).bincount(minlength=20)
    assert set(found.nonzero()[:, 0].tolist()) <= set(kept)
    chi_square = float(((found[kept] - expected).square() / expected).sum())
    freedom = len(kept) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)  # beyond the 0.1 % quantile; the seeds are fixed


@settings(max_examples=30)
@given(seeds, st.integers(1, 12), st.integers(0, 14), st.floats(0.01, 1), st.integers(1, 4))
def test_exactly_the_kept_ids_are_drawn(seed, count, top_k, top_p, levels):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(count, generator=generator) * levels).round()  # with ties, and all ids likely
    found = draws(x, SamplingParams(top_k=top_k, top_p=top_p, seed=seed))[: DRAWS // 4].unique()
    assert set(found.tolist()) <= kept_by_definition(x, top_k, top_p)
    if levels == 1:
        assert set(found.tolist()) == kept_by_definition(x, top_k, top_p)


@given(seeds, st.integers(1, 50))
def test_greedy_is_argmax_and_guidance_1_is_none(seed, count):
    generator = torch.Generator().manual_seed(seed)
    cond, uncond = torch.randn(2, 3, count, generator=generator)
    steps = torch.arange(3)
    greedy = RowSampling.of([SamplingParams(temperature=0, top_k=2, top_p=0.5)] * 3)
    assert torch.equal(sample(cond, None, greedy, steps), cond.argmax(-1))
    plain = RowSampling.of([SamplingParams(seed=seed)] * 3)
    assert torch.equal(sample(cond, uncond, plain, steps), sample(cond, None, plain, steps))


def test_guidance_grows_by_its_share_at_each_step():
    cond, uncond = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.75]])
    rows = RowSampling.of([SamplingParams(temperature=0, guidance=0.5, guidance_growth=1.0)])
    # cond - 0.5 (1 + step) (cond - uncond): [0.5, 0.375], then [0, 0.75]
    ids = [int(sample(cond, uncond, rows, torch.tensor([step]))) for step in (0, 1)]
    assert ids == [0, 1]


def test_ids_below_the_first_are_never_drawn():
    rows = RowSampling.of([SamplingParams(seed=seed) for seed in range(200)])
    found = sample(torch.tensor([9.0, 9.0, 0.0, 0.0]).expand(200, 4), None, rows, torch.zeros(200), first_id=2)
    assert set(found.tolist()) == {2, 3}


@given(seeds, st.integers(1, 8))
def test_a_row_draws_alone_as_in_a_crowd(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, 40, generator=generator)
    params = [SamplingParams(temperature=1 + i / 3, top_k=10 * i, seed=row_seed(seed, i)) for i in range(rows)]
    together = sample(logits, None, RowSampling.of(params), torch.arange(rows))
    alone = [sample(logits[i, None], None, RowSampling.of([params[i]]), torch.tensor([i])) for i in range(rows)]
    assert torch.equal(together, torch.cat(alone))


def test_seeds_of_samples_differ():
    found = {row_seed(seed, index) for seed in (0, 1, 2, MAX_SEED) for index in range(1000)}
    assert len(found) == 4000
    assert all(0 <= seed <= MAX_SEED for seed in found)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"temperature": -1.0}, "temperature must be a number from 0.001 to 100, not -1.0"),
        ({"temperature": math.nan}, "temperature .* not nan"),
        ({"top_k": 1.5}, "top_k must be an integer from 0 to 1048576, not 1.5"),
        ({"top_p": 0.0}, "top_p must be over 0"),
        ({"guidance": math.inf}, "guidance .* not inf"),
        ({"guidance_growth": -1}, "guidance_growth .* not -1"),
        ({"seed": -1}, "seed .* not -1"),
        ({"seed": True}, "seed must be an integer .* not True"),
    ],
)
def test_parameters_outside_their_range_are_refused(values, text):
    with pytest.raises(ConfigError, match=text):
        SamplingParams(**values)
