"""The product that ends in GELU: its definition, and the choice of the library's algorithm for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from absent_gpu import on_gpu
from torch import Tensor

import kernels
from kernels.gelu_linear import choice, cublaslt, library
from kernels.gelu_linear.choice import choose_algorithm, draw_calls, fastest
from kernels.gelu_linear.cublaslt import Algorithm, CublasLtError, GeluProduct
from kernels.gelu_linear.library import Shape, torch_product, use_torch_algorithm
from kernels.gelu_linear.reference import GeluLinearArgs

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="cuBLASLt runs on a GPU")


@pytest.fixture(autouse=True)
def no_choices() -> Iterator[None]:
    library.choices.clear()
    yield
    library.choices.clear()


def draw(*rows: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GeluLinearArgs:
    torch.manual_seed(0)
    tensors = torch.randn(*rows, 32), torch.randn(64, 32) / 6, torch.randn(64)
    return GeluLinearArgs(*(tensor.to(device, dtype) for tensor in tensors))


@pytest.mark.parametrize("rows", [(3,), (2, 5), (2, 1, 4)], ids=str)
def test_torch_equals_the_definition(rows):
    args = [tensor.requires_grad_() for tensor in draw(*rows)]
    out = [kernels.gelu_linear.run_on(backend, *args) for backend in ("torch", "reference")]
    torch.testing.assert_close(*out)
    torch.testing.assert_close(*(torch.autograd.grad(x.square().sum(), args) for x in out))


def test_the_definition_sums_in_float32():
    args = draw(7, dtype=torch.bfloat16)
    wide = GeluLinearArgs(*(tensor.double() for tensor in args))
    want = kernels.gelu_linear.run_on("reference", *wide)
    assert want.dtype == torch.float64
    torch.testing.assert_close(kernels.gelu_linear.run_on("reference", *args), want.bfloat16(), rtol=2**-8, atol=1e-3)


def pick(times: list[float], default: float = 100, right: set[int] | None = None) -> int | None:
    """Return `fastest` among products with these times, those in `right` having the default's bits."""
    products = list(range(len(times)))
    table = dict(zip(products, times, strict=True)) | {-1: default}
    allowed = set(products) if right is None else right
    return fastest(products, -1, allowed.__contains__, table.__getitem__)  # type: ignore[arg-type]


def test_the_fastest_is_chosen():
    assert pick([100, 90, 80, 95]) == 2


def test_the_first_of_equals_is_chosen():
    assert pick([100, 80, 80]) == 1


def test_other_bits_are_no_candidates():
    assert pick([100, 90, 10], right={0, 1}) == 1
    assert pick([100, 90, 10], right=set()) is None


def test_noise_chooses_nothing():
    assert pick([99, 98.5]) is None
    assert pick([120]) is None


def test_a_gain_must_last():
    clock = iter([50.0, 100.0, 100.0, 99.0])  # candidate, default, and both again
    assert fastest([lambda *call: call[0]], torch_product, lambda candidate: True, lambda run: next(clock)) is None


class FakeProduct:
    """cuBLASLt's product: algorithms 1, 3 and 4 give torch's bits, 2 gives others and 0 fails."""

    made: ClassVar[list[tuple[object, ...]]] = []
    ran: ClassVar[list[int]] = []

    def __init__(self, *shape: object) -> None:
        self.made.append(shape)

    def algorithms(self, bias: Tensor) -> list[int]:
        return [0, 1, 2, 3, 4]

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor, algorithm: int) -> Tensor:
        if algorithm == 0:
            raise CublasLtError("cuBLASLt returned status 15.")
        self.ran.append(algorithm)
        out = torch_product(x, weight, bias)
        return out.nextafter(out + 1) if algorithm == 2 else out


@pytest.fixture
def product(monkeypatch: pytest.MonkeyPatch) -> type[FakeProduct]:
    monkeypatch.setattr(choice, "GeluProduct", FakeProduct)
    monkeypatch.setattr(choice, "draw_calls", lambda shape: draw_calls(shape._replace(device=torch.device("cpu"))))
    monkeypatch.setattr(library, "ALIGNMENT_BYTES", 1)
    monkeypatch.setattr(FakeProduct, "made", [])
    monkeypatch.setattr(FakeProduct, "ran", [])
    return FakeProduct


TIMES = {1: 90.0, 2: 1.0, 3: 70.0, 4: 80.0}
SHAPE = Shape(torch.device("cuda", 0), torch.float16, 6, 64, 32)


def clock(runs: list) -> float:
    """Return the time of the algorithm that is bound to a run, or torch's."""
    return TIMES.get(runs[0].keywords.get("algorithm"), 100.0)


def call(rows: int) -> GeluLinearArgs:
    sizes = (rows, 32), (64, 32), (64,)
    return GeluLinearArgs(*(on_gpu(*size, dtype=torch.float16).normal_() for size in sizes))


def test_the_chosen_algorithm_runs_all_calls_of_its_shape(product):
    choose_algorithm(SHAPE, clock)
    product.ran.clear()
    args = call(6)
    assert torch.equal(kernels.gelu_linear(*args), torch_product(*args))
    assert product.ran == [3]
    kernels.gelu_linear(*call(7))
    with use_torch_algorithm():
        kernels.gelu_linear(*args)
    assert product.ran == [3]


def test_calls_that_the_heuristic_does_not_assume_keep_torchs(product):
    choose_algorithm(SHAPE, clock)
    product.ran.clear()
    _, weight, bias = call(6)
    kernels.gelu_linear(on_gpu(6, 64, dtype=torch.float16)[:, ::2], weight, bias)
    assert product.ran == []


def test_a_shape_is_searched_once_and_nobodys_samples_change(product):
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    for _ in range(2):
        choose_algorithm(SHAPE, clock)
    assert torch.equal(torch.rand(2), want)
    assert product.made == [SHAPE]


def test_others_are_not_searched(product):
    choose_algorithm(SHAPE._replace(device=torch.device("cpu")), clock)
    choose_algorithm(SHAPE._replace(dtype=torch.float32), clock)
    with use_torch_algorithm():
        choose_algorithm(SHAPE, clock)
    assert product.made == []
    assert not library.choices


@pytest.mark.parametrize("error", [OSError("no library"), AttributeError("no function"), CublasLtError("status 7")])
def test_a_failure_keeps_torchs(error, product, monkeypatch, caplog):
    def fail(*shape: object) -> None:
        product.made.append(shape)
        raise error

    monkeypatch.setattr(choice, "GeluProduct", fail)
    for _ in range(2):
        choose_algorithm(SHAPE, clock)
    assert len(product.made) == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(error) in caplog.text
    args = call(6)
    assert torch.equal(kernels.gelu_linear(*args), torch_product(*args))


class FakeLibrary:
    """The library's functions: `statuses` names those that fail; it finds three algorithms, one of no use."""

    def __init__(self, **statuses: int) -> None:
        self._statuses = statuses

    def __getattr__(self, name: str) -> object:
        if not name.startswith("cublasLt") or name == self._statuses.get("missing"):
            raise AttributeError(f"undefined symbol: {name}")
        return lambda *args: self._statuses.get(name, 0)

    def cublasLtMatmulAlgoGetHeuristic(self, *args: object) -> int:  # noqa: N802
        results, count = args[-2:]
        for result, state in zip(results, (0, 7, 0), strict=False):  # type: ignore[call-overload]
            result.state = state
        count._obj.value = 3  # type: ignore[attr-defined]
        return 0


def with_library(monkeypatch: pytest.MonkeyPatch, **statuses: int) -> GeluProduct:
    monkeypatch.setattr(cublaslt, "_library", lambda: FakeLibrary(**statuses))
    monkeypatch.setattr(cublaslt, "_handle", lambda device: None)
    return GeluProduct(torch.device("cuda", 0), torch.bfloat16, 6, 64, 32)


def test_algorithms_that_cannot_run_are_left_out(monkeypatch):
    found = with_library(monkeypatch).algorithms(torch.zeros(64))
    assert [type(algorithm) for algorithm in found] == [Algorithm] * 2


def test_statuses_are_errors(monkeypatch):
    with pytest.raises(CublasLtError, match="status 7"):
        with_library(monkeypatch, cublasLtMatrixLayoutCreate=7)
    with pytest.raises(CublasLtError, match="status 3"):
        with_library(monkeypatch, cublasLtMatmulPreferenceCreate=3).algorithms(torch.zeros(64))
    with pytest.raises(AttributeError, match="cublasLtMatmulDescCreate"):
        with_library(monkeypatch, missing="cublasLtMatmulDescCreate")  # type: ignore[arg-type]


def test_a_torch_without_cuda_has_no_library(monkeypatch):
    cublaslt._library.cache_clear()
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda=None))
    with pytest.raises(CublasLtError, match="no CUDA"):
        cublaslt._library()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_choice_keeps_the_bits_on_a_gpu(dtype):
    shape = Shape(torch.device("cuda", torch.cuda.current_device()), dtype, 512, 4608, 1152)
    choose_algorithm(shape, lambda runs: float(runs[0].func is torch_product))  # any is faster than torch's
    assert library.choices[shape] is not None
    calls = draw_calls(shape)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = [kernels.gelu_linear(*call) for call in calls]
    graph.replay()
    for call, again in zip(calls, captured, strict=True):
        assert torch.equal(kernels.gelu_linear(*call), torch_product(*call))
        assert torch.equal(again, torch_product(*call))
