"""The decode engine on a CPU: as the network without a cache, alone as in a crowd, prompts, guidance, refusals."""

from __future__ import annotations

import random
from collections.abc import Sequence as Rows
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.generator.config import GENERATOR_CONFIGS, LanguageModelConfig
from model.generator.lm import LanguageModel
from model.generator.sampling import RowSampling, SamplingParams, row_seed, sample
from model.inference.decoder import DecodeError, Decoder, Sequence

OURS = GENERATOR_CONFIGS["lm-debug"]
PUBLISHED = replace(OURS, prefix="class_sos", null_class=False, positions=81)


@cache
def model(config: LanguageModelConfig = OURS) -> LanguageModel:
    torch.manual_seed(0)
    network = LanguageModel(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.normal_(std=0.3) if parameter.dim() > 1 else parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def make(
    class_id: int = 0, length: int = 6, seed: int = 0, prompt: int = 0, config: LanguageModelConfig = OURS, **params
) -> Sequence:
    codes = torch.randint(config.codes, (prompt,), generator=torch.Generator().manual_seed(seed)).tolist()
    return Sequence(
        config.prefix_ids(class_id),
        length,
        SamplingParams(**{"seed": row_seed(seed, class_id)} | params),
        config.unconditional_prefix_ids(),
        tuple(codes),
    )


def run(sequences: Rows[Sequence], slots: int = 16, config: LanguageModelConfig = OURS) -> list[list[int]]:
    """Decode together from the first step to the last; return vocabulary ids."""
    decoder = Decoder(model(config), slots)
    handles = [decoder.join(sequence) for sequence in sequences]
    for handle in handles:
        while decoder.prefill(handle, 5):
            pass
    decoder.step(max(sequence.steps for sequence in sequences))
    assert all(decoder.finished(handle) for handle in handles)
    for handle in handles:
        assert torch.equal(decoder.read(handle), (decoder.read_ids(handle) - config.code_offset).clamp_min(0))
    return [decoder.read_ids(handle).tolist() for handle in handles]


def uncached(sequence: Sequence, config: LanguageModelConfig = OURS) -> list[int]:
    """Decode by the teacher-forced network, which sees the whole sequence anew for each code."""
    rows = RowSampling.of([sequence.params])
    tokens = [code + config.code_offset for code in sequence.prompt]
    first = config.code_offset if config.masks_prefix_ids else 0
    for step in range(sequence.length):
        logits = []
        for prefix in sequence.prefixes:
            positions = [*prefix.positions, *(prefix.next_position + i for i in range(len(tokens)))]
            logits.append(model(config)(torch.tensor([[*prefix.ids, *tokens]]), torch.tensor([positions]))[:, -1])
        unconditional = logits[1] if len(logits) > 1 else None
        tokens.append(int(sample(logits[0], unconditional, rows, torch.tensor([step]), first)))
    return tokens[len(sequence.prompt) :]


@pytest.mark.parametrize("config", [OURS, PUBLISHED], ids=["ours", "published"])
@pytest.mark.parametrize(
    ("prompt", "params"),
    [
        (0, {"temperature": 0.0}),
        (0, {"guidance": 2.5, "top_k": 20, "guidance_growth": 0.05}),
        (3, {"guidance": 1.5}),
        (20, {"guidance": 3.0, "temperature": 0.0}),
        (33, {"top_p": 0.8}),
    ],
)
def test_cached_is_uncached(config, prompt, params):
    sequence = make(2, 9, 1, prompt, config, **params)
    assert run([sequence], config=config) == [uncached(sequence, config)]


CROWD = [
    make(0, 12, 1),
    make(1, 5, 2, guidance=2.0, top_k=9),
    make(2, 9, 3, prompt=20, top_p=0.7),
    make(3, 30, 4, temperature=0.0),
    make(1, 7, 5, prompt=40, guidance=1.7, temperature=1.3),
    make(0, 20, 6, prompt=2, guidance=3.0, guidance_growth=0.1),
]


@cache
def alone() -> list[list[int]]:
    return [run([sequence], slots=2)[0] for sequence in CROWD]


def test_a_static_crowd_draws_what_each_draws_alone():
    assert run(CROWD) == alone()


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_joining_and_leaving_never_change_anothers_tokens(seed):
    draw = random.Random(seed)
    decoder = Decoder(model(), draw.randint(3, 9))
    waiting = draw.sample(range(len(CROWD)), len(CROWD))
    running: dict[int, int] = {}  # handle -> index
    left: dict[int, int] = {}  # handle -> prompt tokens to compute
    while waiting or running:
        action = draw.choice(["join", "prefill", "step", "step", "cancel", "read"])
        if action == "join" and waiting and CROWD[waiting[0]].slots <= decoder.free:
            handle = decoder.join(CROWD[waiting[0]])
            running[handle] = waiting.pop(0)
            left[handle] = CROWD[running[handle]].prefill
        elif action == "prefill" and any(left.values()):
            handle = next(handle for handle in left if left[handle])
            left[handle] = decoder.prefill(handle, draw.randint(1, 30))
        elif action == "step":
            decoder.step(draw.randint(1, 8))
        elif action == "cancel" and len(running) > 1 and draw.random() < 0.3:
            handle = next(iter(running))
            decoder.leave(handle)
            del running[handle], left[handle]
        for handle, index in list(running.items()):
            if action == "read" or decoder.finished(handle):
                assert decoder.read_ids(handle).tolist() == alone()[index][: decoder.progress(handle)]
            if decoder.finished(handle):
                decoder.leave(handle)
                del running[handle], left[handle]
    assert decoder.free == decoder.capacity


def test_guidance_1_is_no_guidance_and_takes_one_slot():
    guided = make(1, 8, 3)
    assert guided.slots == 1
    assert run([guided]) == run([replace(guided, unconditional=None)])


def test_progress_is_known_without_reading():
    sequence = make(0, 4, config=PUBLISHED)
    decoder = Decoder(model(PUBLISHED), 1)
    handle = decoder.join(sequence)
    seen = []
    for _ in range(sequence.steps):
        decoder.step()
        seen.append(decoder.progress(handle))
        assert len(decoder.read(handle)) == seen[-1]
    assert seen == [0, 1, 2, 3, 4]
    decoder.step(3)  # nothing is left to advance
    assert decoder.progress(handle) == 4


def test_a_sequence_may_fill_every_position():
    full = OURS.positions
    for sequence in (make(0, full, 1, guidance=2.0, temperature=0.0), make(0, 1, 1, full - 1)):
        assert run([sequence]) == [uncached(sequence)]


def test_int8_weights_and_a_float8_cache_stay_near():
    sequences = [make(i, 16, i, prompt=i * 10, temperature=0.0) for i in range(4)]
    exact = torch.tensor(run(sequences)) - OURS.code_offset
    for options in ({"int8": True}, {"kv_dtype": torch.float8_e4m3fn}):
        decoder = Decoder(model(), 4, **options)
        handles = [decoder.join(sequence) for sequence in sequences]
        for handle, sequence in zip(handles, sequences, strict=True):
            decoder.prefill(handle, sequence.prefill)
        decoder.step(17)
        found = torch.stack([decoder.read(handle) for handle in handles])
        assert (found[:, 0] == exact[:, 0]).float().mean() > 0.5  # the first codes, before choices part


def test_memory_of_a_slot_is_stated():
    decoder = Decoder(model(), 3, kv_dtype=torch.float8_e4m3fn)
    assert decoder.slot_bytes == OURS.layers * 2 * OURS.width * OURS.positions
    assert Decoder(model(), 3).slot_bytes == 4 * decoder.slot_bytes


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: Decoder(model(), 0), "slots=0 must be at least 1"),
        (lambda: make(length=0), "length=0 must be at least 1"),
        (lambda: replace(make(), params=SamplingParams(guidance=2.0), unconditional=None), "needs an unconditional"),
        (lambda: Decoder(model(), 1).join(make(guidance=2.0)), "2 slots must be free, and 1 are"),
        (lambda: Decoder(model(), 1).join(make(length=81)), "length=81 after 1 tokens needs 81 positions"),
        (lambda: Decoder(model(), 1).join(make(length=61, prompt=20)), "needs 81 positions; the model has 80"),
    ],
)
def test_sequences_that_do_not_fit_are_refused(act, text):
    with pytest.raises(DecodeError, match=text):
        act()


def test_warming_up_comes_first():
    decoder = Decoder(model(), 1)
    decoder.warm_up()
    decoder.join(make())
    with pytest.raises(DecodeError, match="warm_up must come before"):
        decoder.warm_up()
