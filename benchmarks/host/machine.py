"""The CPUs of this machine, split between a service and its load, and the bundles that are served."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from model.bundle import load_bundle, save_bundle, save_generator
from model.generator.config import GENERATOR_CONFIGS
from model.generator.networks import make_generator
from model.tokenizer.config import CONFIGS, TokenizerConfig
from model.tokenizer.tokenizer import OmniTokenizer

TOPOLOGY = Path("/sys/devices/system/cpu")
LOAD_SHARE = 0.25  # of the CPUs
INGRESS_SHARE = 0.75  # replicas a CPU of the service; a tokenizer and HAProxy take about one each
GENERATORS = {"published": "lm-650m", "demo": "lm-demo", "debug": "lm-debug"}  # by tokenizer
CARD = "Random weights."


@dataclass(frozen=True)
class Split:
    """CPUs by use.

    Args:
        service: of the service.
        load: of what calls it.
    """

    service: frozenset[int]
    load: frozenset[int]

    @property
    def ingress_replicas(self) -> int:
        """Return a number that keeps the service's CPUs busy, at least two."""
        return max(2, int(INGRESS_SHARE * len(self.service)))


def split_cpus(cpus: Iterable[int], siblings: dict[int, int]) -> Split:
    """Split CPUs by cores, so that no core's threads work for both sides unless there is only one.

    Args:
        cpus: to split.
        siblings: core of each CPU.
    """
    in_order = sorted(cpus, key=lambda cpu: (siblings.get(cpu, cpu), cpu))
    if len(in_order) < 2:
        return Split(frozenset(in_order), frozenset(in_order))
    first = len(in_order) - max(1, int(LOAD_SHARE * len(in_order)))
    cores = [siblings.get(cpu, cpu) for cpu in in_order]
    while first > 1 and cores[first] == cores[first - 1] and cores[first] != cores[0]:
        first -= 1
    return Split(frozenset(in_order[:first]), frozenset(in_order[first:]))


def cores() -> dict[int, int]:
    """Return the core of each CPU that this process may use: the lowest of the CPUs that share it."""
    found = {}
    for cpu in os.sched_getaffinity(0):
        with suppress(OSError, ValueError):
            text = (TOPOLOGY / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text()
            found[cpu] = int(text.replace("-", ",").split(",")[0])
    return found


def streaming(config: TokenizerConfig) -> TokenizerConfig:
    """Return the same geometry in the order that streams clips of any length."""
    return replace(config, temporal_order="causal", temporal_window=config.temporal_window or 5)


def write_bundles(folder: Path, config: str, generator: bool) -> None:
    """Write bundles with random weights, but for those that exist: `random`, `streaming`, `generator` if wanted.

    Args:
        folder: of the bundles.
        config: geometry of the tokenizers, a name in `CONFIGS`.
        generator: write it too, in half precision.
    """
    for name, geometry in (("random", CONFIGS[config]), ("streaming", streaming(CONFIGS[config]))):
        if not (folder / name).exists():
            torch.manual_seed(0)
            save_bundle(folder / name, OmniTokenizer(geometry).eval(), CARD)
    if generator and not (folder / "generator").exists():
        torch.manual_seed(0)
        network = make_generator(GENERATOR_CONFIGS[GENERATORS[config]]).eval()
        classes = tuple(f"class {number}" for number in range(network.config.classes))
        code = load_bundle(folder / "random").hash
        save_generator(folder / "generator", network, CARD, code, classes, dtype=torch.bfloat16)
