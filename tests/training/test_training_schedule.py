"""Recipes and the plan that follows from them: what each step is depends on its number alone."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer
from training.budget import Budget
from training.errors import TrainingError
from training.recipes import GENERATOR_RECIPES, MULTI_RESOLUTIONS, RECIPES, Discriminators, LossWeights, Recipe, Stage
from training.rng import random_int, random_ints, random_normal
from training.schedule import (
    batch_at,
    batch_shapes,
    batches_after,
    check_divisible,
    discriminator_learning_rate,
    learning_rate,
    phase_at,
)

PAPER = RECIPES["paper-imagenet-ucf"]
JOINT = PAPER.stage("joint")
NOTHING = {"images": 0, "clips": 0}


def test_the_paper_is_as_in_section_4() -> None:
    assert [stage.name for stage in PAPER.stages] == ["image", "joint", "kl"]
    assert [stage.head for stage in PAPER.stages] == ["vq", "vq", "vae"]
    assert all(stage.steps == 500_000 and stage.learning_rate == 1e-3 for stage in PAPER.stages)
    assert all(stage.betas == (0.9, 0.99) and stage.frames == 17 for stage in PAPER.stages)
    assert [stage.resolutions for stage in PAPER.stages] == [(256,), MULTI_RESOLUTIONS, MULTI_RESOLUTIONS]
    losses = PAPER.stages[0].losses
    assert (losses.codebook, losses.commitment, losses.kl) == (1, 1, 1e-6)
    assert (PAPER.tokenizer.width, PAPER.tokenizer.head.dim, PAPER.tokenizer.streams) == (512, 8, True)


@pytest.mark.parametrize("name", ["demo", "demo-fine", "debug"])
def test_what_is_trained_can_see_how_bright_a_patch_is(name: str) -> None:
    """A norm over each patch would hide its mean, and with it most of what a reconstruction has to get right."""
    torch.manual_seed(0)
    tokenizer = OmniTokenizer(RECIPES[name].tokenizer)
    dark = torch.randint(20, 60, (1, 1, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        change = tokenizer.encode_latents(dark + 150) - tokenizer.encode_latents(dark)
    assert change.abs().max() > 0.01


def test_batches_of_demo_fine_hold_about_as_many_tokens_whatever_they_show() -> None:
    recipe = RECIPES["demo-fine"]
    geometry = recipe.tokenizer.geometry
    for stage in recipe.stages:
        for batch in batch_shapes(stage):
            assert 60_000 < batch.count * math.prod(geometry.grid((batch.frames, batch.side, batch.side))) < 80_000


@given(first=st.integers(0, 200), count=st.integers(1, 50))
def test_the_plan_can_be_taken_up_anywhere(first: int, count: int) -> None:
    whole = list(islice(batches_after(JOINT, 3, 0, NOTHING, None), first + count))
    drawn = dict(NOTHING)
    for spec in whole[:first]:
        assert spec.first == drawn[spec.kind]
        drawn[spec.kind] += spec.count
    assert list(batches_after(JOINT, 3, first, drawn, first + count)) == whole[first:]


def test_images_and_clips_take_turns_at_every_side() -> None:
    plan = list(batches_after(JOINT, 0, 0, NOTHING, 400))
    assert [spec.kind for spec in plan[:4]] == ["images", "clips", "images", "clips"]
    assert {(spec.kind, spec.side) for spec in plan} == {(d.kind, d.side) for d in batch_shapes(JOINT)}
    assert {(spec.kind, spec.frames) for spec in plan} == {("images", 1), ("clips", 17)}
    smaller = replace(JOINT, clip_resolutions=(64, 128))
    plan = list(batches_after(smaller, 0, 0, NOTHING, 400))
    assert {spec.side for spec in plan if spec.kind == "clips"} == {64, 128}
    assert {spec.side for spec in plan if spec.kind == "images"} == set(MULTI_RESOLUTIONS)
    alone = replace(JOINT, image_batch_size=0)
    assert {spec.kind for spec in batches_after(alone, 0, 0, NOTHING, 10)} == {"clips"}


@given(side=st.sampled_from(MULTI_RESOLUTIONS), kind=st.sampled_from(["images", "clips"]))
def test_tokens_of_a_step_stay_about_constant(side: int, kind: str) -> None:
    tokens = JOINT.batch_size(kind, side) * side**2
    assert tokens == pytest.approx(JOINT.batch_size(kind, JOINT.base_resolution) * JOINT.base_resolution**2, rel=0.25)
    assert JOINT.batch_size(kind, side) % JOINT.batch_multiple == 0


@given(step=st.integers(1, 1000))
def test_rates_warm_up_and_fall_to_zero(step: int) -> None:
    stage = replace(JOINT, warmup_steps=100, discriminators=Discriminators(start=200, every=3))
    rate, other = (f(stage, step, (step - 1) / 1000) for f in (learning_rate, discriminator_learning_rate))
    assert 0 < rate <= stage.learning_rate
    assert (other > 0) == (step > 200)
    assert rate == learning_rate(stage, step, (step - 1) / 1000)
    assert learning_rate(stage, step, 1.0) == pytest.approx(0, abs=1e-12)
    if step < 100:
        assert rate < learning_rate(stage, step + 1, (step - 1) / 1000)


@pytest.mark.parametrize(("share", "left"), [(0.0, 1.0), (0.25, 0.853553), (0.5, 0.5), (0.75, 0.146447), (1.5, 0.0)])
def test_rates_fall_by_a_cosine(share: float, left: float) -> None:
    stage = replace(
        JOINT, learning_rate=3.0, warmup_steps=100, discriminators=Discriminators(start=200, learning_rate=5.0)
    )
    assert learning_rate(stage, 100, share) == pytest.approx(3.0 * left, abs=1e-5)
    assert learning_rate(stage, 25, share) == pytest.approx(0.25 * 3.0 * left, abs=1e-5)
    assert discriminator_learning_rate(stage, 300, share) == pytest.approx(5.0 * left, abs=1e-5)
    assert discriminator_learning_rate(stage, 225, share) == pytest.approx(0.25 * 5.0 * left, abs=1e-5)


@pytest.mark.parametrize(("step", "rate"), [(502, 3.974e-4), (2008, 3.664e-4), (5020, 2.217e-4), (7530, 8.377e-5)])
def test_the_demo_sharp_stage_has_the_rates_that_its_run_logged(step: int, rate: float) -> None:
    sharp = RECIPES["demo"].stage("sharp")
    assert learning_rate(sharp, step, (step - 1) / sharp.steps) == pytest.approx(rate, rel=0.01)


def test_phases_set_in_where_the_stage_says() -> None:
    stage = replace(JOINT, discriminators=Discriminators(start=10, every=3))
    phases = {step: phase_at(stage, step, unquantized_steps=4) for step in range(1, 30)}
    assert [step for step, phase in phases.items() if not phase.quantise] == [1, 2, 3, 4]
    assert [step for step, phase in phases.items() if not phase.adversarial] == list(range(1, 11))
    assert [step for step, phase in phases.items() if phase.discriminate] == [11, 12, 17, 18, 23, 24, 29]
    images = replace(stage, clip_batch_size=0)
    alone = [step for step in range(1, 30) if phase_at(images, step, unquantized_steps=4).discriminate]
    assert alone == [11, 14, 17, 20, 23, 26, 29]
    vae = replace(stage, head="vae", losses=LossWeights())
    assert {phase_at(vae, step, unquantized_steps=0) for step in range(1, 30)} == {(False, False, False)}


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_discriminators_learn_from_images_and_from_clips(every: int) -> None:
    stage = replace(JOINT, discriminators=Discriminators(start=10, every=every))
    plan = enumerate(batches_after(stage, 0, 0, NOTHING, 60), 1)
    seen = [batch.kind for step, batch in plan if phase_at(stage, step, 0).discriminate]
    assert seen.count("images") == seen.count("clips") > 0


def test_a_video_discriminator_needs_clips() -> None:
    losses = LossWeights(video_adversarial=0.1)
    assert not Stage(name="a", head="vq", steps=1, image_batch_size=4, losses=losses).adversarial
    assert Stage(name="a", head="vq", steps=1, clip_batch_size=4, losses=losses).adversarial


def test_ranks_and_micro_batches_share_batches_equally() -> None:
    check_divisible(JOINT, 8)
    with pytest.raises(TrainingError, match=r"draws \d+ images of \d+ pixels, which 3 ranks of 1 micro-batches"):
        check_divisible(JOINT, 3)
    with pytest.raises(TrainingError, match="set `batch_multiple` to a multiple of 32"):
        check_divisible(replace(JOINT, gradient_accumulation_steps=4), 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Joint stage"}, "small letters"),
        ({"head": "gan"}, "head is vq or vae"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"image_batch_size": 0, "clip_batch_size": 0}, "no images and no clips"),
        ({"resolutions": ()}, "needs resolutions"),
        ({"learning_rate": 0.0}, "above 0"),
        ({"learning_rate": math.nan}, "learning_rate must be above 0, not nan"),
        ({"max_grad_norm": math.nan}, "max_grad_norm must be above 0, not nan"),
        ({"warmup_steps": math.nan}, "warmup_steps must be at least 1, not nan"),
        ({"ema_decay": math.nan}, "ema_decay must be in .* not nan"),
        ({"resolutions": (64, math.nan)}, "needs resolutions in pixels, not .*nan"),
        ({"ema_decay": 1.0}, "ema_decay must be in"),
        ({"betas": (0.9, 1.0)}, "betas must be in"),
        ({"codebook_update": "kmeans"}, "codebook_update is"),
        ({"resolutions": (16,)}, "need squares of at least 24 pixels"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        replace(JOINT, **changes)


@pytest.mark.parametrize("name", ["start", "every", "learning_rate", "layers"])
def test_discriminators_have_numbers(name: str) -> None:
    with pytest.raises(TrainingError, match=f"{name}=nan"):
        Discriminators(**{name: math.nan})


def test_a_generator_decays_by_a_number() -> None:
    with pytest.raises(TrainingError, match="weight_decay must be at least 0, not nan"):
        replace(GENERATOR_RECIPES["lm-debug"].stages[0], weight_decay=math.nan)


@pytest.mark.parametrize(
    ("old", "new"), [("clip_norm", "max_grad_norm"), ("sides", "resolutions"), ("clips", "clip_batch")]
)
def test_a_setting_of_an_earlier_version_is_refused_with_its_new_name(old: str, new: str) -> None:
    with pytest.raises(TrainingError, match=f"'{old}' of a stage is now called '{new}"):
        replace(JOINT, **{old: 1})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LossWeights(l2=-1.0), "l2 must be"),
        (lambda: LossWeights(l2=0.0), "l1 or l2"),
        (lambda: LossWeights(perceptual=1.0), "perceptual=1.0"),
        (lambda: Discriminators(every=0), "every=0.*every and layers of at least 1"),
        (lambda: Discriminators(channels=40), "channels=40.*a multiple of 32"),
        (lambda: Recipe(CONFIGS["paper"], ()), "different names"),
        (lambda: Recipe(CONFIGS["paper"], (JOINT, JOINT)), "different names"),
        (lambda: Recipe(CONFIGS["paper"], (replace(JOINT, resolutions=(100,)),)), "are not multiples of the patch"),
        (lambda: Recipe(CONFIGS["paper"], (replace(JOINT, frames=16),)), r"1 \+ k \* 4 frames"),
        (lambda: PAPER.stage("video"), "known are image, joint, kl"),
        (lambda: Budget(), "steps or seconds"),
        (lambda: Budget(3, 4.0), "steps or seconds"),
        (lambda: Budget(steps=0), "positive"),
        (lambda: Budget(seconds=float("nan")), "positive"),
    ],
)
def test_what_describes_no_training_is_refused(build: object, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        build()  # type: ignore[operator]


@given(seed=st.integers(0, 2**40), step=st.integers(0, 10**6), first=st.integers(0, 10**6), cut=st.integers(0, 40))
def test_random_numbers_follow_from_their_place(seed: int, step: int, first: int, cut: int) -> None:
    """So R ranks draw what one would, and a resumed run what an uninterrupted one would."""
    clock = torch.tensor(step)
    whole = random_ints(seed, 1, clock, first, 40)
    assert torch.equal(
        whole, torch.cat((random_ints(seed, 1, clock, first, cut), random_ints(seed, 1, clock, first + cut, 40 - cut)))
    )
    assert whole.min() >= 0
    assert whole.max() < 2**32
    parts = [random_normal(seed, clock, first + i, torch.Size((1, 3, 2))) for i in range(2)]
    assert torch.equal(random_normal(seed, clock, first, torch.Size((2, 3, 2))), torch.cat(parts))


def test_random_numbers_are_spread_as_they_should_be() -> None:
    noise = random_normal(0, torch.tensor(5), 0, torch.Size((100, 1000)))
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    assert float(noise.abs().max()) < 7
    other = random_normal(0, torch.tensor(6), 0, torch.Size((100, 1000)))
    assert abs(float((noise * other).mean())) < 0.02
    sides = [random_int(0, 3, step) % 5 for step in range(5000)]
    assert all(abs(sides.count(side) / 5000 - 0.2) < 0.03 for side in range(5))


def test_a_draw_knows_its_place_in_the_data() -> None:
    spec = batch_at(JOINT, 0, 2, {"images": 7, "clips": 40})
    assert (spec.kind, spec.first, spec.frames) == ("clips", 40, 17)


def test_a_seed_means_the_same_numbers_for_ever() -> None:
    """A run is resumed by another version of the project."""
    step = torch.tensor(5)
    assert random_ints(7, 3, step, 2**31, 3).tolist() == [1517259208, 2504456148, 1779387988]
    assert random_int(7, 3, 5) == 3269952533
    assert random_normal(7, step, 1, torch.Size((1, 2))).tolist() == [pytest.approx([0.421028, 0.343327], abs=1e-5)]


def test_a_stage_takes_over_the_one_before_or_the_one_it_names() -> None:
    demo = RECIPES["demo"]
    before = {stage.name: demo.before(stage) for stage in demo.stages}
    assert before["image"] is None
    assert {name: stage.name for name, stage in before.items() if stage is not None} == {
        "joint": "image", "long": "joint", "sharp": "long", "kl": "long", "long-decoder": "long", "kl-decoder": "kl",
    }  # fmt: skip
    image, joint = demo.stages[:2]
    with pytest.raises(TrainingError, match="Stage image begins after 'joint', not one of"):
        replace(demo, stages=(replace(image, after="joint"), joint))
    for before_it in ((), (replace(image, head="vae"),)):
        with pytest.raises(TrainingError, match="Stage joint trains the decoder alone"):
            replace(demo, stages=(*before_it, replace(joint, decoder_only=True)))
