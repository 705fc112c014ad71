"""One step: which term moves what, micro-batches, discriminators, and that nothing in it waits for a value."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from no_questions import NoQuestions
from torch import Tensor, nn

from model.tokenizer.heads import VQHead
from model.tokenizer.tokenizer import OmniTokenizer, is_encoding_weight
from training.data.loaders.batch import BatchSpec
from training.data.loaders.device_loader import DeviceLoader
from training.networks.lpips import FeatureDistance
from training.recipes import RECIPES, LossWeights, Stage
from training.schedule import Phase
from training.tokenizer.head_transfer import with_head
from training.tokenizer.state import TrainState
from training.tokenizer.step import TrainingStep

RECIPE = RECIPES["debug"]
STAGE = replace(RECIPE.stage("joint"), image_batch_size=8, clip_batch_size=4, warmup_steps=1)
PLAIN = LossWeights(l2=1.0)
ALL = Phase(quantise=True, adversarial=True, discriminate=True)


def step_of(stage: Stage, perceptual: FeatureDistance | None = None) -> TrainingStep:
    torch.manual_seed(0)
    state = TrainState(OmniTokenizer(with_head(RECIPE.tokenizer, stage.head)), stage, 0)
    step = TrainingStep(state, stage, 0, perceptual=perceptual)
    state.set_step(1, stage.learning_rate, stage.discriminators.learning_rate)
    return step


@pytest.fixture(scope="module")
def images(loader: DeviceLoader) -> Tensor:
    return next(loader.stream([BatchSpec("images", 32, 8, 0, 1)]))


@pytest.fixture(scope="module")
def clips(loader: DeviceLoader) -> Tensor:
    return next(loader.stream([BatchSpec("clips", 32, 4, 0, 5)]))


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Darkness(FeatureDistance):
    """A perceptual distance that shows which frames it was given."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.seen: list[Tensor] = []

    def forward(self, out: Tensor, pixels: Tensor) -> Tensor:
        self.seen.append(pixels)
        return (out - pixels).abs().mean((1, 2, 3))


def test_each_term_reaches_only_its_side(images: Tensor) -> None:
    """The codebook term moves codes alone; reconstruction and commitment never touch them."""
    stage = replace(STAGE, losses=replace(PLAIN, codebook=0.7))
    step = step_of(stage)
    head = step.state.tokenizer.head
    assert isinstance(head, VQHead)
    codes = head.codebook.detach().clone()
    with torch.no_grad():
        vectors = head.project(step.state.tokenizer.encoder(images.float() / 255 - 0.5)).flatten(0, -2)
        tokens = head.assign(vectors)
    step(images, Phase(quantise=True))
    used = codes[tokens]
    expected = torch.zeros_like(codes).index_add_(0, tokens, 2 * (used - vectors) / used.numel())
    assert head.codebook.grad is not None
    gradients = torch.cat([p.grad.flatten() for p in step.state.parameters() if p.grad is not None])
    cosine = torch.cosine_similarity(head.codebook.grad.flatten(), expected.flatten(), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)  # the length was clipped with all others
    assert float(gradients.norm()) <= stage.max_grad_norm * (1 + 1e-5)
    reached = step.state.tokenizer.encoder.embed.first.proj.weight.grad
    assert reached is not None
    assert reached.abs().max() > 0


@pytest.mark.parametrize("head", ["vq", "vae"])
def test_a_frozen_encoder_has_no_gradients(images: Tensor, head: str) -> None:
    step = step_of(replace(STAGE, head=head, decoder_only=True))
    inputs: list[Tensor] = []
    step.state.tokenizer.decoder.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    handle = step.state.tokenizer.encoder.register_forward_hook(lambda module, given, embed: inputs.append(embed))
    step(images, Phase(quantise=head == "vq"))
    handle.remove()
    embed, expanded = inputs
    assert not embed.requires_grad  # so that nothing of the encoder is kept for the backward pass
    assert expanded.requires_grad
    reached = {name for name, weight in step.state.tokenizer.named_parameters() if weight.grad is not None}
    assert {name.split(".")[0] for name in reached} == {"decoder", "head"}
    assert not any(is_encoding_weight(name) for name in reached)


def test_without_quantisation_codes_rest(images: Tensor) -> None:
    step = step_of(STAGE)
    head = step.state.tokenizer.head
    assert isinstance(head, VQHead)
    before = head.codebook.detach().clone()
    metrics = step(images, Phase(quantise=False))
    assert torch.equal(head.codebook.detach(), before)
    assert "commitment" not in metrics


@pytest.mark.parametrize(("head", "rule"), [("vq", "gradient"), ("vq", "ema"), ("vae", "gradient")])
def test_micro_batches_equal_one_batch(images: Tensor, clips: Tensor, head: str, rule: str) -> None:
    stage = replace(STAGE, head=head, codebook_update=rule, learning_rate=1e-4)
    whole, parts = step_of(stage), step_of(replace(stage, gradient_accumulation_steps=2))
    phase = ALL._replace(quantise=head == "vq")
    for number in (1, 2):
        results = []
        for step in (whole, parts):
            step.state.set_step(number, 1e-4, 1e-4)
            results.append(step(images, phase) | {f"clip {k}": v for k, v in step(clips, phase).items()})
        for name, value in results[0].items():
            torch.testing.assert_close(results[1][name], value, rtol=1e-3, atol=1e-5)
    for mine, theirs in zip(weights(whole.state.tokenizer), weights(parts.state.tokenizer), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-4)
    if whole.state.codebook_updater is not None and parts.state.codebook_updater is not None:
        assert torch.equal(whole.state.codebook_updater.uses, parts.state.codebook_updater.uses)


def test_each_side_of_the_game_moves_its_own_weights(clips: Tensor) -> None:
    step = step_of(STAGE)
    state = step.state
    before = weights(state.discriminators)
    metrics = step(clips, Phase(quantise=True, adversarial=True))
    assert same(before, weights(state.discriminators))
    assert {"image_adversarial", "video_adversarial", "image_features", "video_features"} <= set(metrics)
    assert all(parameter.requires_grad for parameter in state.discriminators.parameters())

    metrics = step(clips, ALL)
    assert not same(before, weights(state.discriminators))
    assert {"image_discriminator", "video_discriminator"} <= set(metrics)
    tokenizer = weights(state.tokenizer)
    step.update_discriminators((clips,), [torch.zeros(clips.shape)])
    assert same(tokenizer, weights(state.tokenizer))


def test_images_are_no_concern_of_the_video_discriminator(images: Tensor) -> None:
    metrics = step_of(STAGE)(images, ALL)
    assert "image_discriminator" in metrics
    assert not [name for name in metrics if name.startswith("video")]


def test_a_video_discriminator_alone_leaves_image_steps_to_the_other_losses(images: Tensor) -> None:
    step = step_of(replace(STAGE, losses=replace(PLAIN, video_adversarial=0.1)))
    before = weights(step.state.discriminators)
    metrics = step(images, ALL)
    assert not [name for name in metrics if "discriminator" in name]
    assert same(before, weights(step.state.discriminators))


def test_the_discriminators_change_what_the_tokenizer_learns(clips: Tensor) -> None:
    silent, judged = step_of(STAGE), step_of(STAGE)
    silent(clips, Phase(quantise=True))
    judged(clips, Phase(quantise=True, adversarial=True))
    assert not same(weights(silent.state.tokenizer), weights(judged.state.tokenizer))


def test_the_perceptual_distance_sees_frames_of_the_batch(images: Tensor, clips: Tensor) -> None:
    losses = replace(PLAIN, perceptual=0.5, perceptual_network="vgg", clip_frames=3)
    darkness = Darkness()
    step = step_of(replace(STAGE, losses=losses), darkness)
    plain = step_of(replace(STAGE, losses=PLAIN))
    metrics, without = step(images, Phase(quantise=False)), plain(images, Phase(quantise=False))
    torch.testing.assert_close(metrics["loss"], without["loss"] + 0.5 * metrics["perceptual"])
    assert darkness.seen[0].shape == (8, 32, 32, 3)
    frames = []
    for number in (2, 3):
        step.state.set_step(number, 1e-4, 0)
        step(clips, Phase(quantise=False))
        frames.append(darkness.seen[-1])
        assert frames[-1].shape == (12, 32, 32, 3)
        known = clips.float().flatten(0, 1) / 255 - 0.5
        for place, frame in enumerate(frames[-1]):  # each clip's own frames, in the order of the clips
            first = place // 3 * clips.shape[1]
            assert min(float((frame - own).abs().max()) for own in known[first : first + clips.shape[1]]) < 1e-6
    assert not torch.equal(*frames)


@pytest.mark.parametrize(("head", "rule"), [("vq", "gradient"), ("vq", "ema"), ("vae", "gradient")])
def test_the_loss_is_the_weighted_sum_of_its_terms(images: Tensor, clips: Tensor, head: str, rule: str) -> None:
    weighted = LossWeights(
        l2=2.0, codebook=0.7, commitment=0.3, kl=1e-3, perceptual=0.5, perceptual_network="vgg",
        image_adversarial=0.11, video_adversarial=0.23, feature_matching=1.7,
    )  # fmt: skip
    for pixels in (images, clips):
        step = step_of(replace(STAGE, head=head, codebook_update=rule, losses=weighted), Darkness())
        terms = step(pixels, Phase(quantise=head == "vq", adversarial=True))
        expected = 2.0 * terms["squared_error"] + 0.5 * terms["perceptual"]
        expected += 0.11 * (terms["image_adversarial"] + 1.7 * terms["image_features"])
        if pixels is clips:
            expected += 0.23 * (terms["video_adversarial"] + 1.7 * terms["video_features"])
        if head == "vae":
            expected += 1e-3 * terms["kl"]
        else:  # codes that are averages of vectors have no term of their own
            expected += (0.3 if rule == "ema" else 0.7 + 0.3) * terms["commitment"]
        torch.testing.assert_close(terms["loss"], expected, rtol=1e-5, atol=0)
        assert all(value.abs() > 1e-4 for name, value in terms.items() if name != "commitment")


@pytest.mark.parametrize("number", [1, 100])  # the decay bounds the share from the ninth step on
def test_the_average_follows_the_weights(images: Tensor, number: int) -> None:
    step = step_of(replace(STAGE, ema_decay=0.5))
    step.state.set_step(number, STAGE.learning_rate, 0.0)
    before = weights(step.state.ema)
    step(images, Phase(quantise=False))
    share = 1 - min(0.5, (1 + number) / (10 + number))
    for old, now, trained in zip(before, weights(step.state.ema), weights(step.state.tokenizer), strict=True):
        torch.testing.assert_close(now, old + share * (trained - old))


def test_latents_are_drawn_anew_for_each_step_and_again_the_same(images: Tensor) -> None:
    stage = replace(STAGE, head="vae", losses=PLAIN, learning_rate=1e-9)
    losses = []
    for number in (1, 1, 2):
        step = step_of(stage)
        step.state.set_step(number, 0.0, 0.0)
        losses.append(float(step(images, Phase(quantise=False))["loss"]))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(("head", "rule"), [("vq", "gradient"), ("vq", "ema"), ("vae", "gradient")])
def test_nothing_in_a_step_waits_for_a_value(images: Tensor, clips: Tensor, head: str, rule: str) -> None:
    """So that a CPU runs ahead of its GPU, and the step can be captured in a graph."""
    step = step_of(replace(STAGE, head=head, codebook_update=rule, gradient_accumulation_steps=2))
    with NoQuestions():
        for pixels in (images, clips):
            step(pixels, ALL._replace(quantise=head == "vq"))
    for question in (lambda: float(torch.ones(())), lambda: images[images > 3], lambda: bool(torch.ones(()) > 0)):
        with pytest.raises(AssertionError, match="waits"), NoQuestions():
            question()


def test_half_precision_is_for_gpus(images: Tensor) -> None:
    """A processor trains the same with either setting."""
    steps = [step_of(replace(STAGE, precision=precision)) for precision in ("fp32", "bf16")]
    for step in steps:
        step(images, ALL)
    assert same(*(weights(step.state.tokenizer) for step in steps))
