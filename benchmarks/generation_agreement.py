"""`python -m benchmarks.generation_agreement BUNDLE`: effect of precision on the draws of a trained language model."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import describe_machine, device
from kernels.decode_attention.reference import FLOAT8
from model.bundle import load_generator
from model.generator.lm import LanguageModel
from model.generator.sampling import SamplingParams, row_seed
from model.inference.decoder import Decoder, Sequence
from model.inference.language_model import PackedLanguageModel


@torch.inference_mode()
def draw(model: LanguageModel, classes: list[int], length: int) -> Tensor:
    """Draw codes (B, length) in float32, one sequence for each class, without guidance."""
    decoder = Decoder(model, len(classes), device(), torch.float32)
    decoder.warm_up()
    handles = [
        decoder.join(Sequence(model.config.prefix_ids(label), length, SamplingParams(seed=row_seed(0, index))))
        for index, label in enumerate(classes)
    ]
    while not decoder.finished(handles[-1]):
        decoder.step()
    return torch.stack([decoder.read(handle) for handle in handles])


@torch.inference_mode()
def log_probabilities(
    packed: PackedLanguageModel, classes: list[int], codes: Tensor, kv_dtype: torch.dtype | None
) -> Tensor:
    """Return the log-probabilities (B, length, codes) of each next code of given sequences, float32 on the CPU."""
    config, where = packed.config, packed.device
    prefixes = torch.tensor([config.prefix_ids(label).ids for label in classes])
    ids = torch.cat((prefixes, codes + config.code_offset), 1).int().to(where)
    slots = torch.arange(len(ids), dtype=torch.int32, device=where)
    cache = packed.make_cache(len(ids), kv_dtype)
    found = []
    for place in range(ids.shape[1] - 1):
        x = packed.tokens[ids[:, place]] + packed.positions[place]
        logits = packed.step(x, cache, slots, torch.full_like(slots, place + 1))
        found.append(logits[:, config.code_offset :].log_softmax(-1).cpu())
    return torch.stack(found[prefixes.shape[1] - 1 :], 1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--frames", type=int, default=1, help="latent frames of each")
    arguments = parser.parse_args()
    print(describe_machine())
    model = load_generator(arguments.bundle).generator
    if not isinstance(model, LanguageModel):
        parser.error(f"{arguments.bundle} is not a language model.")
    config = model.config
    classes = [index % config.classes for index in range(arguments.sequences)]
    codes = draw(model, classes, arguments.frames * config.grid[1] * config.grid[2])
    table = Table(title=f"{arguments.bundle.name}: {codes.numel()} codes that float32 drew")
    for column in ("variant", "mean KL from float32, nats", "likeliest codes that differ"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    truth: Tensor | None = None
    for name, dtype, kv_dtype, int8 in (
        ("float32", torch.float32, None, False),
        ("bfloat16", torch.bfloat16, None, False),
        ("bfloat16, float8 cache", torch.bfloat16, FLOAT8, False),
        ("bfloat16, int8 weights", torch.bfloat16, None, True),
        ("bfloat16, both", torch.bfloat16, FLOAT8, True),
    ):
        found = log_probabilities(PackedLanguageModel(model, device(), dtype, int8), classes, codes, kv_dtype)
        truth = found if truth is None else truth
        divergence = (truth.exp() * (truth - found)).sum(-1).mean()
        differ = (truth.argmax(-1) != found.argmax(-1)).float().mean()
        table.add_row(name, f"{divergence:.2e}", f"{differ:.2%}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
