"""Published language models give the published numbers, through convert and back from disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden_models import convert_generators, published_numbers
from torch import Tensor

from model.bundle import GeneratorBundle, load_generator
from model.generator.config import LanguageModelConfig, SamplingDefaults
from model.generator.lm import LanguageModel
from model.generator.sampling import SamplingParams
from model.inference.decoder import Decoder
from model.inference.sequence import Sequence

LOGIT_BOUND = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    return convert_generators(folder, "vq_rope.ckpt", "lm_class.ckpt", "lm_frame_prediction.ckpt")


@pytest.fixture
def by_class(folder: Path, device: str) -> GeneratorBundle:
    return load_generator(folder / "lm_class", device)


@pytest.fixture
def prediction(folder: Path, device: str) -> GeneratorBundle:
    return load_generator(folder / "lm_frame_prediction", device)


def logit_error(model: LanguageModel, ids: Tensor, skip: int, wanted: dict[str, Tensor]) -> float:
    """Return the greatest difference at `logits_positions`, indices of predicted codes."""
    logits = model(ids)[:, skip:][:, wanted["logits_positions"].long()]
    return (logits - wanted["logits_full_vocab"]).abs().max().item()


def greedy(model: LanguageModel, device: str, sequences: list[Sequence]) -> Tensor:
    """Return the raw ids that the decode engine takes for each sequence, all decoded together."""
    decoder = Decoder(model, sum(sequence.slots for sequence in sequences), device, torch.float32)
    handles = [decoder.join(sequence) for sequence in sequences]
    for handle, sequence in zip(handles, sequences, strict=True):
        decoder.prefill(handle, sequence.prefill)
    decoder.step(max(sequence.steps for sequence in sequences))
    return torch.stack([decoder.read_ids(handle) for handle in handles])


@torch.inference_mode()
def test_logits_by_class(by_class: GeneratorBundle, device: str, table) -> None:
    wanted, config = published_numbers("lm_class", device), by_class.config
    prefix = torch.tensor([config.prefix_ids(int(label)).ids for label in wanted["classes"]], device=device)
    ids = torch.cat([prefix, wanted["tokens"].long() + config.code_offset], 1)[:, :-1]
    error = logit_error(by_class.generator, ids, 1, wanted)
    table("published language models: greatest differences", f"lm_class             {device:5} logits {error:.1e}")
    assert error <= LOGIT_BOUND


@torch.inference_mode()
def test_logits_of_frame_prediction(prediction: GeneratorBundle, device: str, table) -> None:
    wanted = published_numbers("lm_frame_prediction", device)
    # the first token has none before it, so index i of the output predicts token i + 1
    error = logit_error(prediction.generator, wanted["tokens"].long()[:, :-1], 0, wanted)
    table("published language models: greatest differences", f"lm_frame_prediction  {device:5} logits {error:.1e}")
    assert error <= LOGIT_BOUND


@pytest.mark.parametrize(("guidance", "key"), [(2.5, "greedy_cfg_1.5_raw_ids"), (1.0, "greedy_raw_ids")])
def test_greedy_tokens_by_class(by_class: GeneratorBundle, device: str, guidance: float, key: str) -> None:
    wanted, config = published_numbers("lm_class", "cpu"), by_class.config
    params = SamplingParams(temperature=0, guidance=guidance)
    free = config.unconditional_prefix_ids()
    sequences = [Sequence(config.prefix_ids(int(label)), 24, params, free) for label in wanted["classes"]]
    assert torch.equal(greedy(by_class.generator, device, sequences), wanted[key].long())


def test_greedy_tokens_of_frame_prediction(prediction: GeneratorBundle, device: str) -> None:
    wanted, prefix = published_numbers("lm_frame_prediction", "cpu"), prediction.config.prefix_ids(None)
    params = SamplingParams(temperature=0)
    sequences = [Sequence(prefix, 24, params, prompt=tuple(prompt.tolist())) for prompt in wanted["prefix"]]
    assert torch.equal(greedy(prediction.generator, device, sequences), wanted["greedy_raw_ids"].long())


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
