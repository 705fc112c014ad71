"""Every implementation of an operator equals its reference, and the references have correct gradients."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from absent_gpu import capability, on_gpu
from hypothesis import given
from hypothesis import strategies as st

import kernels
from kernels import BackendUnavailableError, rope_table, use_backend
from kernels.runtime.constant import constant_in_graphs
from kernels.runtime.dispatch import Implementation, Operator
from kernels.spatial_attention.rope import rotate
from kernels.vq.reference import CPU_CHUNK_ROWS
from model.tokenizer.config import CONFIGS
from model.tokenizer.tokenizer import OmniTokenizer

small = st.integers(1, 3)
grid = st.integers(1, 11)
seeds = st.integers(0, 2**31 - 1)
HEADS, DIM = 2, 8


def both(operator, *args, **kwargs) -> None:
    """Compare outputs and every gradient of both backends."""
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
    for x in tensors:
        x.requires_grad_()
    results = []
    for backend in ("torch", "reference"):
        out = operator.run_on(backend, *args, **kwargs)
        torch.manual_seed(0)
        results.append((out, torch.autograd.grad(out, tensors, torch.randn(out.shape), allow_unused=True)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@given(seeds, small, small, grid, grid, st.booleans(), st.booleans())
def test_spatial_attention(seed, batch, frames, height, width, with_rope, with_bias):
    torch.manual_seed(seed)
    qkv = torch.randn(batch, frames, height, width, 3, HEADS, DIM)  # queries and keys as strided views of one buffer
    scales = torch.rand(2, DIM) + 0.5
    bias = torch.randn(HEADS, height * width, height * width) if with_bias else None
    rope = rope_table(height, width, DIM) if with_rope else None
    both(kernels.spatial_attention, qkv[..., 0, :, :], qkv[..., 1:, :, :], *scales, rope=rope, bias=bias)


@given(seeds, small, small, grid, grid, st.integers(1, 5))
def test_window_attention(seed, batch, frames, height, width, window):
    torch.manual_seed(seed)
    qkv = torch.randn(batch, frames, height, width, 3, HEADS, DIM)
    table = torch.randn((2 * window - 1) ** 2, HEADS)
    both(kernels.window_attention, qkv, table, window)


@given(seeds, small, st.integers(1, 9), small, st.integers(0, 6), st.booleans(), st.data())
def test_temporal_attention(seed, batch, frames, side, past, causal, data):
    torch.manual_seed(seed)
    window = data.draw(st.none() | st.integers(1, 6)) if causal else None
    slopes = data.draw(st.none() | st.just(torch.rand(HEADS)))
    q = torch.randn(batch, frames, side, side, HEADS, DIM)
    kv = torch.randn(batch, frames, side, side, 2, HEADS, DIM)
    past_kv = torch.randn(batch, past, side, side, 2, HEADS, DIM) if past else None
    scales = torch.rand(2, DIM) + 0.5
    both(kernels.temporal_attention, q, kv, *scales, past_kv=past_kv, causal=causal, window=window, slopes=slopes)


@given(seeds, small, st.integers(1, 6), grid, grid, st.sampled_from(["causal", "both", "published", "carried"]))
def test_peg(seed, batch, frames, height, width, kind):
    torch.manual_seed(seed)
    x, weight, bias = torch.randn(batch, frames, height, width, 6), torch.randn(3, 3, 3, 6), torch.randn(6)
    past = torch.randn(batch, 2, height, width, 6) if kind == "carried" else None
    order = "published" if kind == "published" else "causal"
    both(kernels.peg, x, weight, bias, past=past, causal=kind != "both", order=order)


@given(seeds, st.integers(1, 40), st.integers(2, 50), st.integers(1, 8))
def test_vq_assignment_is_the_nearest_code(seed, rows, codes, dim):
    torch.manual_seed(seed)
    z, codebook = torch.randn(rows, dim), torch.randn(codes, dim)
    distances = torch.cdist(z.double(), codebook.double())
    chosen = distances.gather(1, kernels.vq_assign(z, codebook)[:, None])[:, 0]
    assert (chosen - distances.min(1).values).max() < 1e-5


def test_vq_assignment_in_chunks_equals_that_row_by_row():
    random = torch.Generator().manual_seed(0)
    z, codebook = torch.randn(2 * CPU_CHUNK_ROWS + 3, 8, generator=random), torch.randn(64, 8, generator=random)
    alone = torch.cat([kernels.vq_assign(row[None], codebook) for row in z])
    assert torch.equal(kernels.vq_assign(z, codebook), alone)


def test_vq_assignment_takes_the_lowest_index_among_equals():
    codebook = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    z = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])
    assert kernels.vq_assign(z, codebook).tolist() == [0, 1, 0]


def test_vq_assignment_is_exact_under_autocast():
    torch.manual_seed(0)
    z, codebook = (F.normalize(torch.randn(n, 8), dim=-1) for n in (512, 4096))
    plain = kernels.vq_assign(z, codebook)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(kernels.vq_assign(z, codebook), plain)


def test_windows_are_independent():
    torch.manual_seed(0)
    qkv = torch.randn(1, 1, 6, 6, 3, HEADS, DIM)
    changed = qkv.clone()
    changed[:, :, :4, :4] += 1
    table = torch.zeros(49, HEADS)
    before, after = (kernels.window_attention(x, table, 4) for x in (qkv, changed))
    assert torch.equal(before[:, :, 4:], after[:, :, 4:])
    assert torch.equal(before[:, :, :, 4:], after[:, :, :, 4:])


def test_rotary_logits_depend_on_offsets_only():
    table = rope_table(6, 7, DIM)
    vector = F.normalize(torch.randn(DIM), dim=0).expand(42, 1, DIM)
    turned = rotate(vector, table)
    logits = (turned[:, 0] @ turned[:, 0].T).view(6, 7, 6, 7)
    torch.testing.assert_close(logits[0, 0, 2, 3], logits[3, 2, 5, 5])
    torch.testing.assert_close(logits[1, 4, 1, 1], logits[4, 5, 4, 2])


GRADIENTS = {
    "spatial": lambda d: (
        lambda q, kv, s, t: kernels.spatial_attention(q, kv, s, t, rope=_double(rope_table(2, 3, DIM))),
        [d(1, 2, 2, 3, 1, DIM), d(1, 2, 2, 3, 2, 1, DIM), d(DIM), d(DIM)],
    ),
    "window": lambda d: (lambda x, b: kernels.window_attention(x, b, 2), [d(1, 1, 3, 3, 3, 1, 4), d(9, 1)]),
    "temporal": lambda d: (
        lambda q, kv, s, t, p: kernels.temporal_attention(q, kv, s, t, past_kv=p, window=3),
        [d(1, 3, 1, 2, 1, 4), d(1, 3, 1, 2, 2, 1, 4), d(4), d(4), d(1, 2, 1, 2, 2, 1, 4)],
    ),
    "peg": lambda d: (lambda x, w, b: kernels.peg(x, w, b), [d(1, 2, 2, 3, 2), d(3, 3, 3, 2), d(2)]),
}


def _double(table):
    return type(table)(*(x.double() for x in table))


@pytest.mark.parametrize("name", GRADIENTS)
def test_reference_gradients(name):
    torch.manual_seed(0)
    function, inputs = GRADIENTS[name](lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True))
    with use_backend("reference"):
        assert torch.autograd.gradcheck(function, inputs)


def test_the_choice_is_explained():
    x = torch.randn(1, 1, 4, 4, 3, HEADS, DIM)
    table = torch.zeros(49, HEADS)
    assert kernels.window_attention.explain(x, table, 4).backend == "torch"
    with use_backend("reference"):
        choice = kernels.window_attention.explain(x, table, 4)
    assert (choice.backend, choice.reason) == ("reference", "requested")
    assert choice.refused == {"triton": "reference was requested", "torch": "reference was requested"}
    assert kernels.window_attention.explain(x, table, 4).refused == {"triton": "the tensors are on cpu, not on a GPU"}


class OneTensor(NamedTuple):
    """The arguments of the operators below."""

    x: torch.Tensor


def test_auto_skips_an_implementation_that_is_not_preferred():
    def slow(args: OneTensor) -> str | None:
        return "slow" if args.x.numel() > 1 else None

    triton = Implementation(lambda args: 3 * args.x, not_preferred=slow)
    operator = Operator("triple", OneTensor, lambda args: args.x + args.x + args.x, triton=triton)
    choice = operator.explain(torch.ones(2))
    assert (choice.backend, choice.refused) == ("reference", {"triton": "slow"})
    assert operator.explain(torch.ones(1)).backend == "triton"
    with use_backend("triton"):
        assert operator.explain(torch.ones(2)).backend == "triton"


def _memory() -> tuple[torch.Tensor, torch.Tensor]:
    return on_gpu(3, 8, dtype=torch.int32), on_gpu(3, 4, dtype=torch.int32)


CALLS_ON_GPU = {
    "adaptive_norm": lambda: (on_gpu(2, 4, 64), on_gpu(2, 64), on_gpu(2, 64)),
    "attention_fixed_max": lambda: (on_gpu(8, 3, 2, 64), 4, 12.0),
    "attention_inputs": lambda: (on_gpu(4, 64), None, on_gpu(384, 64), 0, None, None, None, None, 2),
    "frame_attention": lambda: (on_gpu(1, 2, 4, 3, 2, 64),),
    "gated_adaptive_norm": lambda: (on_gpu(2, 4, 64), on_gpu(1, 2, 4, 64), None, *(on_gpu(2, 64) for _ in range(3))),
    "decode_attention": lambda: (
        on_gpu(2, 3, 4, 64),
        on_gpu(2, 3, 4, 9, 64),
        *(on_gpu(2, dtype=torch.int32) for _ in range(2)),
    ),
    "gated_linear": lambda: (on_gpu(4, 64), on_gpu(4), on_gpu(32, 64), on_gpu(32)),
    "inverse_deviation": lambda: (on_gpu(4, 64),),
    "layer_norm": lambda: (on_gpu(4, 64), on_gpu(64), None),
    "patchify": lambda: (on_gpu(1, 1, 8, 8, 3, dtype=torch.uint8), 8, 1, 0, torch.bfloat16),
    "peg": lambda: (on_gpu(1, 1, 2, 2, 8), on_gpu(3, 3, 3, 8), on_gpu(8)),
    "read_rows": lambda: (*_memory(), on_gpu(2, dtype=torch.int32), on_gpu(9, 64), on_gpu(5, 64), on_gpu(2, 2)),
    "resample": lambda: (
        on_gpu(24, dtype=torch.uint8),
        on_gpu(1, dtype=torch.int64),
        *(on_gpu(1, dtype=torch.int32) for _ in range(5)),
        on_gpu(1, 4, dtype=torch.int32),
        on_gpu(1, 2, 4, dtype=torch.int32),
        3,
        3,
        True,
    ),
    "residual_linear": lambda: (on_gpu(4, 64), on_gpu(8, 64), None, on_gpu(4, 8)),
    "sample_tokens": lambda: (on_gpu(2, 64), *(torch.zeros(2) for _ in range(9))),
    "sequence_attention": lambda: (on_gpu(2, 4, 3, 2, 72),),
    "spatial_attention": lambda: (on_gpu(1, 1, 2, 2, 2, 64), on_gpu(1, 1, 2, 2, 2, 2, 64), on_gpu(64), on_gpu(64)),
    "temporal_attention": lambda: (on_gpu(1, 2, 2, 2, 2, 64), on_gpu(1, 2, 2, 2, 2, 2, 64), on_gpu(64), on_gpu(64)),
    "thin_linear": lambda: (on_gpu(4, 64), on_gpu(8, 64)),
    "unpatchify": lambda: (on_gpu(1, 1, 2, 2, 192), None, 8, 4),
    "vq_assign": lambda: (on_gpu(4, 8), on_gpu(16, 8)),
    "vq_project": lambda: (on_gpu(4, 64), None, None, on_gpu(8, 64), on_gpu(8)),
    "write_rows": lambda: (_memory()[0], on_gpu(2, dtype=torch.int32), on_gpu(2, dtype=torch.int64)),
    "window_attention": lambda: (on_gpu(1, 1, 8, 8, 3, 2, 64), on_gpu(225, 2), 8),
}


@pytest.mark.parametrize("name", CALLS_ON_GPU)
def test_kernels_run_from_compute_capability_8_on(name):
    operator, call = getattr(kernels, name), CALLS_ON_GPU[name]()
    with capability(8, 0):
        assert operator.explain(*call).backend == "triton"
    with capability(7, 5):
        choice = operator.explain(*call)
        assert choice.backend != "triton"
        assert "7.5 is below 8.0" in choice.refused["triton"]


def test_every_operator_with_kernels_has_a_call_on_a_gpu():
    operators = {name: getattr(kernels, name) for name in kernels.__all__}
    assert set(CALLS_ON_GPU) == {
        name
        for name, operator in operators.items()
        if isinstance(operator, Operator) and "triton" in operator.implementations
    }


def test_auto_leaves_to_torch_what_torch_does_faster():
    with capability(9, 0):
        many_frames = kernels.attention_fixed_max.explain(on_gpu(8192, 3, 2, 64), 256, 12.0)
        assert (many_frames.backend, many_frames.refused.keys()) == ("torch", {"triton"})
        long_rows = on_gpu(4, 1088), on_gpu(8, 1088), None, on_gpu(4, 8)
        assert kernels.residual_linear.explain(*long_rows).backend == "reference"


def test_auto_avoids_the_slow_backward_of_the_depthwise_library_call():
    call = on_gpu(1, 1, 2, 2, 8), on_gpu(3, 3, 3, 8), on_gpu(8)
    with capability(7, 5):
        assert kernels.peg.explain(*call).backend == "reference"
        with torch.no_grad():
            assert kernels.peg.explain(*call).backend == "torch"


def test_renamed_backends_name_their_new_name(monkeypatch):
    with pytest.raises(BackendUnavailableError, match="use backend=torch"), use_backend("sdpa"):
        pass
    monkeypatch.setenv("OMNITOK_KERNELS", "sdpa")
    with pytest.raises(BackendUnavailableError, match="use OMNITOK_KERNELS=torch"):
        kernels.vq_assign(torch.zeros(1, 2), torch.zeros(2, 2))


def test_the_environment_chooses(monkeypatch):
    x = torch.randn(1, 1, 4, 4, 3, HEADS, DIM)
    monkeypatch.setenv("OMNITOK_KERNELS", "reference")
    assert kernels.window_attention.explain(x, torch.zeros(49, HEADS), 4).backend == "reference"
    with use_backend("torch"):  # the context overrides the environment
        assert kernels.window_attention.explain(x, torch.zeros(49, HEADS), 4).backend == "torch"


def test_requested_backends_that_cannot_run_are_errors(monkeypatch):
    x = torch.randn(1, 1, 4, 4, 3, HEADS, DIM)
    with pytest.raises(BackendUnavailableError, match="no triton implementation"):
        Operator("twice", OneTensor, lambda args: 2 * args.x).run_on("triton", x)
    with pytest.raises(BackendUnavailableError, match="cannot run on triton: the tensors are on cpu"):
        kernels.window_attention.run_on("triton", x, torch.zeros(49, HEADS), 4)
    with pytest.raises(BackendUnavailableError, match="backend=fast must be one of"), use_backend("fast"):
        pass
    monkeypatch.setenv("OMNITOK_KERNELS", "quick")
    with pytest.raises(BackendUnavailableError, match="OMNITOK_KERNELS=quick must be one of"):
        kernels.vq_assign(torch.zeros(1, 2), torch.zeros(2, 2))


def test_an_operator_without_library_call_runs_its_reference_on_torch():
    with use_backend("torch"):
        assert kernels.vq_assign.explain(torch.zeros(1, 2), torch.zeros(2, 2)).backend == "reference"


def test_carrying_frames_needs_causal_order():
    x, weight, bias = torch.zeros(1, 1, 2, 2, 4), torch.zeros(3, 3, 3, 4), torch.zeros(4)
    for backend in ("torch", "reference"):
        with pytest.raises(ValueError, match="past needs causal=True"):
            kernels.peg.run_on(backend, x, weight, bias, past=torch.zeros(1, 2, 2, 2, 4), order="published")


def test_a_window_needs_causal_attention():
    q, kv = torch.zeros(1, 2, 1, 1, 1, 4), torch.zeros(1, 2, 1, 1, 2, 1, 4)
    with pytest.raises(ValueError, match="causal"):
        kernels.temporal_attention(q, kv, torch.ones(4), torch.ones(4), causal=False, window=2)


def test_the_mark_of_constants_is_the_one_of_torch():
    def ours(): ...

    def theirs(): ...

    constant_in_graphs(ours)
    torch.compiler.assume_constant_result(theirs)
    assert vars(ours) == vars(theirs) != {}


def test_the_network_compiles_without_graph_breaks():
    torch.manual_seed(0)
    encoder = OmniTokenizer(CONFIGS["debug"]).eval().encoder
    pixels = torch.rand(1, 5, 24, 40, 3) - 0.5
    with torch.no_grad():
        compiled = torch.compile(encoder, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(pixels), encoder(pixels), rtol=1e-4, atol=1e-4)


def test_short_vectors_are_projected_without_being_blown_up():
    """As torch normalises: what is shorter than 1e-12 keeps its direction and becomes shorter than one."""
    x = torch.tensor([[0.6e-12, 0.8e-12], [1.2e-12, 1.6e-12], [0.3e-12, 0.4e-12], [0.0, 0.0]], dtype=torch.float64)
    vectors = kernels.vq_project(x, None, None, torch.eye(2).double(), torch.zeros(2).double())
    expected = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(vectors, expected)
