"""Published language models give the published numbers, through convert and back from disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from model.bundle import GeneratorBundle, load_generator
from model.convert.generator import convert_checkpoint
from model.generator.config import LanguageModelConfig, RowPrefix, SamplingDefaults
from model.generator.kv_cache import KVCache
from model.generator.lm import LanguageModel

GOLDEN = Path(__file__).parents[1] / "golden"
LOGIT_BOUND = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    tokenizer = convert_checkpoint(GOLDEN / "vq_rope.ckpt", folder / "tokenizer")
    for name in ("lm_class", "lm_frame_prediction"):
        report = convert_checkpoint(GOLDEN / f"{name}.ckpt", folder / name, tokenizer=tokenizer.path)
        assert load_generator(folder / name).hash == report.hash
        assert load_generator(folder / name).tokenizer_hash == tokenizer.hash
    return folder


@pytest.fixture(params=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def by_class(folder: Path, device: str) -> GeneratorBundle:
    return load_generator(folder / "lm_class", device)


@pytest.fixture
def prediction(folder: Path, device: str) -> GeneratorBundle:
    return load_generator(folder / "lm_frame_prediction", device)


def expected(name: str, device: str) -> dict[str, Tensor]:
    return {key: value.to(device) for key, value in load_file(GOLDEN / f"{name}.safetensors").items()}


def logit_error(model: LanguageModel, ids: Tensor, skip: int, wanted: dict[str, Tensor]) -> float:
    """Return the greatest difference at `logits_positions`, indices of predicted codes."""
    logits = model(ids)[:, skip:][:, wanted["logits_positions"].long()]
    return (logits - wanted["logits_full_vocab"]).abs().max().item()


def start(model: LanguageModel, cache: KVCache, slot: int, prefix: RowPrefix, codes: Tensor) -> Tensor:
    """Prefill one slot, and return the logits of its first free code, (vocabulary,)."""
    ids = torch.cat([torch.tensor(prefix.ids).to(codes), codes + model.config.code_offset])
    rest = prefix.next_position + torch.arange(len(codes))
    positions = torch.cat([torch.tensor(prefix.positions, dtype=torch.int64), rest]).to(codes.device)
    slots = torch.tensor([slot], device=codes.device)
    return model.prefill(ids[None], positions[None], cache, slots, torch.full_like(slots, len(ids)))[0]


def greedy(model: LanguageModel, prefixes: list[RowPrefix], prompts: Tensor, guidance: float, count: int) -> Tensor:
    """Return raw ids of the published loop: nothing masked, one pair of rows a sample where guidance is not 1."""
    config, device = model.config, prompts.device
    cache = KVCache(config.layers, 2 * len(prefixes), config.heads, config.positions, config.head_dim, device=device)
    twins = [config.unconditional_prefix_ids()] * len(prefixes) if guidance != 1 else []
    both = prompts.repeat(2, 1)[: len(prefixes) + len(twins)]
    rows = list(zip([*prefixes, *twins], both, strict=True))
    logits = torch.stack([start(model, cache, slot, *row) for slot, row in enumerate(rows)])
    lengths = torch.tensor([len(prefix.ids) + len(codes) for prefix, codes in rows], device=device)
    positions = torch.tensor([prefix.next_position + len(codes) for prefix, codes in rows], device=device)
    slots, chosen = torch.arange(len(rows), device=device), []
    for _ in range(count):
        conditional, unconditional = logits[: len(prefixes)], logits[-len(prefixes) :]
        ids = (unconditional + guidance * (conditional - unconditional)).argmax(-1)
        chosen.append(ids)
        lengths = lengths + 1
        ids = ids.repeat(2)[: len(rows)]
        logits = model.step(ids, positions, cache, slots, lengths)
        positions = positions + 1
    return torch.stack(chosen, 1)


@torch.inference_mode()
def test_logits_by_class(by_class: GeneratorBundle, device: str, table) -> None:
    wanted, config = expected("lm_class", device), by_class.config
    prefix = torch.tensor([config.prefix_ids(int(label)).ids for label in wanted["classes"]], device=device)
    ids = torch.cat([prefix, wanted["tokens"].long() + config.code_offset], 1)[:, :-1]
    error = logit_error(by_class.generator, ids, 1, wanted)
    table("published language models: greatest differences", f"lm_class             {device:5} logits {error:.1e}")
    assert error <= LOGIT_BOUND


@torch.inference_mode()
def test_logits_of_frame_prediction(prediction: GeneratorBundle, device: str, table) -> None:
    wanted = expected("lm_frame_prediction", device)
    # the first token has none before it, so index i of the output predicts token i + 1
    error = logit_error(prediction.generator, wanted["tokens"].long()[:, :-1], 0, wanted)
    table("published language models: greatest differences", f"lm_frame_prediction  {device:5} logits {error:.1e}")
    assert error <= LOGIT_BOUND


@pytest.mark.parametrize(("guidance", "key"), [(2.5, "greedy_cfg_1.5_raw_ids"), (1.0, "greedy_raw_ids")])
@torch.inference_mode()
def test_greedy_tokens_by_class(by_class: GeneratorBundle, device: str, guidance: float, key: str) -> None:
    wanted = expected("lm_class", device)
    prefixes = [by_class.config.prefix_ids(int(label)) for label in wanted["classes"]]
    none = torch.zeros(len(prefixes), 0, dtype=torch.int64, device=device)
    assert torch.equal(greedy(by_class.generator, prefixes, none, guidance, 24), wanted[key].long())


@torch.inference_mode()
def test_greedy_tokens_of_frame_prediction(prediction: GeneratorBundle, device: str) -> None:
    wanted = expected("lm_frame_prediction", device)
    prompts = wanted["prefix"].long()
    prefixes = [prediction.config.prefix_ids(None)] * len(prompts)
    chosen = greedy(prediction.generator, prefixes, prompts, 1.0, 24)
    assert torch.equal(chosen, wanted["greedy_raw_ids"].long())


def test_the_files_describe_released_kinds(by_class: GeneratorBundle, prediction: GeneratorBundle) -> None:
    sizes = {"layers": 3, "width": 64, "heads": 4, "codes": 256, "null_class": False}
    sampling = SamplingDefaults(top_k=2048, guidance=2.5)
    assert by_class.config == LanguageModelConfig(
        **sizes, classes=10, prefix="class_sos", positions=65, grid=(1, 8, 8), sampling=sampling
    )
    sampling = SamplingDefaults(top_k=2048, top_p=0.9)
    assert prediction.config == LanguageModelConfig(
        **sizes, classes=0, prefix="none", positions=80, grid=(5, 4, 4), sampling=sampling
    )
    assert by_class.classes == tuple("0123456789")
    assert prediction.classes == ()
