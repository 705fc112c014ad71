"""The language model's laws on tiny random models: the cached form equals the teacher-forced one."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.generator.config import LANGUAGE_MODELS, LanguageModelConfig, RowPrefix, SamplingDefaults
from model.generator.kv_cache import KVCache
from model.generator.lm import LanguageModel

DEBUG = LANGUAGE_MODELS["lm-debug"]
CONFIGS = {
    "none": replace(DEBUG, prefix="none", classes=0, null_class=False, sampling=SamplingDefaults()),
    "class": replace(DEBUG, width=24, heads=3),
    "sos_class": replace(DEBUG, prefix="sos_class", null_class=False, positions=81),
    "class_sos": replace(DEBUG, prefix="class_sos", null_class=False, positions=81),
}
TOLERANCE = 2e-5  # of logits of order one, in float32: sums over differently shaped buffers

prefixes = st.sampled_from(sorted(CONFIGS))
seeds = st.integers(0, 2**31 - 1)


@lru_cache
def model(prefix: str) -> LanguageModel:
    torch.manual_seed(3)
    network = LanguageModel(CONFIGS[prefix]).eval().requires_grad_(False)
    for parameter in network.parameters():  # biases start at zero and norms as identities: give each its own value
        parameter += 0.2 * torch.randn_like(parameter)
    return network


def cache_of(config: LanguageModelConfig, slots: int) -> KVCache:
    cache = KVCache(config.layers, slots, config.heads, config.positions, config.head_dim)
    cache.data.normal_(generator=torch.Generator().manual_seed(5))  # a slot holds what its last owner left
    return cache


def rows(config: LanguageModelConfig, prefix: RowPrefix, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ids and positions of one sequence, (L,) each."""
    ids = torch.tensor(prefix.ids, dtype=torch.int64)
    positions = torch.tensor(prefix.positions, dtype=torch.int64)
    rest = prefix.next_position + torch.arange(len(codes))
    return torch.cat([ids, codes + config.code_offset]), torch.cat([positions, rest])


def draw_codes(config: LanguageModelConfig, seed: int, count: int) -> Tensor:
    return torch.randint(config.codes, (count,), generator=torch.Generator().manual_seed(seed))


@given(prefixes, seeds, st.integers(1, 12), st.integers(0, 3), st.lists(st.integers(1, 11), max_size=3))
def test_the_cached_model_equals_the_uncached_one(prefix, seed, count, slot, cuts) -> None:
    """Whole, in chunks, and token by token, in any slot."""
    network, config = model(prefix), CONFIGS[prefix]
    class_id = None if prefix == "none" else seed % config.classes
    ids, positions = rows(config, config.prefix_ids(class_id), draw_codes(config, seed, count))
    whole = network(ids[None], positions[None])[0]
    cache, slots = cache_of(config, 4), torch.tensor([slot])
    ends = sorted({cut for cut in cuts if cut < len(ids)} | {len(ids)})
    start = 0
    for end in ends:
        chunk = slice(start, end)
        logits = network.prefill(ids[None, chunk], positions[None, chunk], cache, slots, torch.tensor([end]))
        torch.testing.assert_close(logits[0], whole[end - 1], rtol=0, atol=TOLERANCE)
        start = end
    for place in range(len(ids)):
        one = slice(place, place + 1)
        logits = network.step(ids[one], positions[one], cache, slots, torch.tensor([place + 1]))
        torch.testing.assert_close(logits[0], whole[place], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("prefix", ["class", "sos_class", "class_sos"])
def test_ragged_rows_step_together(prefix: str) -> None:
    """A conditional row, the unconditional one that guides it, and a stranger further on."""
    network, config = model(prefix), CONFIGS[prefix]
    codes = draw_codes(config, 1, 9)
    sequences = [
        rows(config, config.prefix_ids(2), codes),
        rows(config, config.unconditional_prefix_ids(), codes),
        rows(config, config.prefix_ids(0), draw_codes(config, 2, 20)),
    ]
    cache, slots = cache_of(config, 5), torch.tensor([4, 0, 2])
    fed = [len(ids) - 6 for ids, _ in sequences]
    for slot, length, (ids, positions) in zip(slots, fed, sequences, strict=True):
        network.prefill(ids[None, :length], positions[None, :length], cache, slot[None], torch.tensor([length]))
    untouched = cache.data[:, :, [1, 3]].clone()
    for step in range(6):
        ids = torch.stack([sequence[0][length + step] for sequence, length in zip(sequences, fed, strict=True)])
        positions = torch.stack([sequence[1][length + step] for sequence, length in zip(sequences, fed, strict=True)])
        logits = network.step(ids, positions, cache, slots, torch.tensor(fed) + step + 1)
        for row, length, (whole_ids, whole_positions) in zip(logits, fed, sequences, strict=True):
            expected = network(whole_ids[None], whole_positions[None])[0, length + step]
            torch.testing.assert_close(row, expected, rtol=0, atol=TOLERANCE)
    assert torch.equal(cache.data[:, :, [1, 3]], untouched)


def test_a_cache_of_8_bits_rounds_keys_and_values_alone() -> None:
    network, config = model("class"), CONFIGS["class"]
    ids, positions = rows(config, config.prefix_ids(1), draw_codes(config, 4, 11))
    cache = KVCache(config.layers, 2, config.heads, config.positions, config.head_dim, torch.float8_e4m3fn)
    slots = torch.tensor([1])
    network.prefill(ids[None, :-1], positions[None, :-1], cache, slots, torch.tensor([len(ids) - 1]))
    logits = network.step(ids[-1:], positions[-1:], cache, slots, torch.tensor([len(ids)]))
    whole = network(ids[None])[0, -1]
    error = (logits[0] - whole).norm() / whole.norm()
    assert 1e-4 < error < 0.05  # three bits of mantissa


@given(prefixes, seeds)
def test_later_tokens_change_no_earlier_logits(prefix: str, seed: int) -> None:
    network, config = model(prefix), CONFIGS[prefix]
    ids = draw_codes(config, seed, 10) + config.code_offset
    changed = torch.cat([ids[:6], draw_codes(config, seed + 1, 4) + config.code_offset])
    torch.testing.assert_close(network(ids[None])[0, :6], network(changed[None])[0, :6], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("prefix", ["sos_class", "class_sos"])
def test_the_start_tokens_stream_is_one_shorter_at_the_same_positions(prefix: str) -> None:
    config = CONFIGS[prefix]
    conditional, unconditional = config.prefix_ids(3), config.unconditional_prefix_ids()
    assert conditional.ids == ((0, 4) if prefix == "sos_class" else (4, 0))
    assert (unconditional.ids, unconditional.positions) == ((0,), (0,))
    assert conditional.next_position == unconditional.next_position == 2
