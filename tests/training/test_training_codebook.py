"""Equation 1's pieces: gradients, unit codes, dead codes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from model import CONFIGS, OmniTokenizer, VQHead
from training.batches import Batches
from training.codebook import CodebookKeeper
from training.losses import straight_through, vq_step
from training.recipes import RECIPES


@pytest.fixture
def head() -> VQHead:
    torch.manual_seed(0)
    head = OmniTokenizer(CONFIGS["debug"]).head
    assert isinstance(head, VQHead)
    return head


def keeper_of(head: VQHead, patience: int) -> tuple[CodebookKeeper, torch.nn.Parameter, torch.optim.Adam]:
    average = torch.nn.Parameter(head.codebook.detach().clone())
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    head.codebook.grad = torch.randn_like(head.codebook)
    optimizer.step()
    generator = torch.Generator().manual_seed(0)
    return CodebookKeeper(head.codebook, average, optimizer, patience, generator), average, optimizer


def test_straight_through_has_the_codes_values_and_the_vectors_gradient() -> None:
    vectors, codes = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    weight = torch.randn(5, 4)
    out = straight_through(vectors, codes)
    torch.testing.assert_close(out, codes)
    (out * weight).sum().backward()
    assert vectors.grad is not None
    torch.testing.assert_close(vectors.grad, weight)
    assert codes.grad is None


def test_each_term_reaches_only_its_side(batches: Batches) -> None:
    """The codebook term moves codes alone; reconstruction and commitment never touch them."""
    torch.manual_seed(0)
    tokenizer = OmniTokenizer(CONFIGS["debug"])
    recipe = RECIPES["debug"]
    result = vq_step(tokenizer, batches.images(4), recipe, quantise=True)
    result.loss.backward()
    head = tokenizer.head
    assert isinstance(head, VQHead)
    codes = head.codebook.detach()
    used = codes[result.tokens]
    expected = torch.zeros_like(codes).index_add_(0, result.tokens, 2 * (used - result.vectors) / used.numel())
    assert head.codebook.grad is not None
    torch.testing.assert_close(head.codebook.grad, recipe.codebook * expected)
    reached = tokenizer.encoder.embed.first.proj.weight.grad
    assert reached is not None
    assert reached.abs().max() > 0


def test_codes_stay_on_the_unit_sphere(head: VQHead) -> None:
    keeper, _, _ = keeper_of(head, patience=10)
    vectors = F.normalize(torch.randn(100, 4), dim=-1)
    keeper.update(1, head.assign(vectors).flatten(), vectors)
    torch.testing.assert_close(head.codebook.norm(dim=-1), torch.ones(64))


def test_a_dead_code_moves_to_an_encoder_output_and_forgets_its_past(head: VQHead) -> None:
    keeper, average, optimizer = keeper_of(head, patience=4)
    vectors = F.normalize(torch.randn(100, 4), dim=-1)
    alive = torch.arange(40)
    for step in range(1, 5):
        keeper.update(step, alive, vectors)
    before = optimizer.state[head.codebook]
    dead = head.codebook[40:]
    distance = (dead[:, None] - vectors).norm(dim=-1).amin(-1)
    assert distance.max() < 1e-6
    assert len(dead.unique(dim=0)) == len(dead)
    torch.testing.assert_close(average[40:].data, dead.data)
    for moment in ("exp_avg", "exp_avg_sq"):
        assert before[moment][40:].abs().max() == 0
        assert before[moment][:40].abs().min() > 0


def test_a_code_in_use_is_left_alone(head: VQHead) -> None:
    keeper, average, _ = keeper_of(head, patience=4)
    head.codebook.data = F.normalize(head.codebook.data, dim=-1)
    codes, averaged = head.codebook.detach().clone(), average.detach().clone()
    vectors = F.normalize(torch.randn(100, 4), dim=-1)
    for step in range(1, 9):
        keeper.update(step, torch.arange(64), vectors)
    torch.testing.assert_close(head.codebook.detach(), codes)
    torch.testing.assert_close(average.detach(), averaged)
