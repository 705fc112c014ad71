"""The codebook's codebook_updater: unit codes, dead codes, codes learned by averages, metrics of use."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from training.recipes import RECIPES
from training.tokenizer.codebook import CodebookUpdater, usage

CODES, DIM = 64, 4
STAGE = replace(RECIPES["debug"].stage("image"), dead_code_steps=4, codebook_decay=0.5)


class Book:
    """A codebook, its average, an optimiser that has moments, and their codebook_updater."""

    def __init__(self, rule: str = "gradient") -> None:
        torch.manual_seed(0)
        self.codes = nn.Parameter(F.normalize(torch.randn(CODES, DIM), dim=-1), requires_grad=rule == "gradient")
        self.ema = nn.Parameter(self.codes.detach().clone(), requires_grad=False)
        self.optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1)), self.codes], lr=1e-2)
        if rule == "gradient":
            self.codes.grad = torch.randn(CODES, DIM)
            self.optimizer.step()
        self.codebook_updater = CodebookUpdater(self.codes, self.ema, replace(STAGE, codebook_update=rule), seed=0)

    def update(self, step: int, tokens: Tensor, vectors: Tensor) -> None:
        self.codebook_updater.update(torch.tensor(step), tokens, vectors, self.optimizer)


def unit(count: int, seed: int = 1) -> Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def distance_to(vectors: Tensor, codes: Tensor) -> Tensor:
    return (codes[:, None] - vectors).norm(dim=-1).amin(-1)


@pytest.mark.parametrize("rule", ["gradient", "ema"])
def test_codes_stay_on_the_unit_sphere(rule: str) -> None:
    book = Book(rule)
    book.update(1, torch.randint(CODES, (100,)), unit(100))
    for codes in (book.codes, book.ema):
        torch.testing.assert_close(codes.detach().norm(dim=-1), torch.ones(CODES))


@pytest.mark.parametrize("rule", ["gradient", "ema"])
def test_a_dead_code_moves_to_a_vector_and_forgets_its_past(rule: str) -> None:
    book, vectors = Book(rule), unit(100)
    alive = torch.arange(40).repeat(3)[:100]
    for step in range(1, 5):
        book.update(step, alive, vectors)
    dead = book.codes.detach()[40:]
    assert distance_to(vectors, dead).max() < 1e-6
    assert len(dead.unique(dim=0)) == len(dead)
    assert distance_to(vectors, book.codes.detach()[:40]).min() > 1e-6 or rule == "ema"
    torch.testing.assert_close(book.ema.detach()[40:], dead)
    if rule == "gradient":
        for moment in ("exp_avg", "exp_avg_sq"):
            assert book.optimizer.state[book.codes][moment][40:].abs().max() == 0
            assert book.optimizer.state[book.codes][moment][:40].abs().min() > 0


def test_averages_of_a_dead_code_do_not_pull_a_revived_one_back() -> None:
    """Sums and counts that were left as they were would undo the revival in the next step."""
    book, vectors = Book("ema"), unit(100)
    for step in range(1, 5):
        book.update(step, torch.arange(40).repeat(3)[:100], vectors)
    revived = book.codes.detach()[40:].clone()
    book.update(5, torch.arange(40).repeat(3)[:100], vectors)
    torch.testing.assert_close(book.codes.detach()[40:], revived)
    assert book.codebook_updater.counts[40:].max() <= 1


def test_averages_draw_a_code_to_the_vectors_that_choose_it() -> None:
    book = Book("ema")
    vectors = F.normalize(torch.tensor([1.0, 0, 0, 0]) + 0.05 * unit(50), dim=-1)
    before = book.codes.detach().clone()
    for step in range(1, 4):
        book.update(step, torch.full((50,), 7), vectors)
    target = F.normalize(vectors.sum(0), dim=-1)
    assert (book.codes[7].detach() - target).norm() < 0.05
    others = torch.arange(CODES) != 7
    torch.testing.assert_close(book.codes.detach()[others], before[others])


def test_a_code_in_use_is_left_alone() -> None:
    book = Book()
    book.codes.data = F.normalize(book.codes.data, dim=-1)
    codes, averaged = book.codes.detach().clone(), book.ema.detach().clone()
    for step in range(1, 9):
        book.update(step, torch.arange(CODES), unit(CODES))
    torch.testing.assert_close(book.codes.detach(), codes)
    torch.testing.assert_close(book.ema.detach(), averaged)


@given(count=st.integers(1, 300), step=st.integers(0, 10_000))
def test_a_codebook_starts_from_different_vectors_of_the_batch(count: int, step: int) -> None:
    book, vectors = Book(), unit(count)
    book.codebook_updater.initialize(vectors, torch.tensor(step))
    assert distance_to(vectors, book.codes.detach()).max() < 1e-6
    assert len(book.codes.detach().unique(dim=0)) == min(count, CODES)
    assert torch.equal(book.codes, book.ema)
    assert (book.codebook_updater.last_used == step).all()


def test_other_steps_and_seeds_give_other_places() -> None:
    book, vectors = Book(), unit(1000)
    starts = []
    for step in (1, 2):
        book.codebook_updater.initialize(vectors, torch.tensor(step))
        starts.append(book.codes.detach().clone())
    assert not torch.equal(*starts)


def test_uses_are_counted_between_readings() -> None:
    book = Book()
    for step in (1, 2):
        book.update(step, torch.tensor([3, 3, 5]), unit(3))
    uses = book.codebook_updater.read_uses()
    assert (uses[3], uses[5], uses.sum()) == (4, 2, 6)
    assert book.codebook_updater.read_uses().sum() == 0


@given(histogram=st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_perplexity_lies_between_one_and_the_codes_in_use(histogram: list[int]) -> None:
    share, perplexity = usage(torch.tensor(histogram))
    used = sum(count > 0 for count in histogram)
    assert float(share) == pytest.approx(used / len(histogram))
    assert 1 - 1e-9 <= float(perplexity) <= used + 1e-9
    even = usage(torch.tensor([int(count > 0) for count in histogram]))[1]
    assert float(even) == pytest.approx(used)
