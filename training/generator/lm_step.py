"""The training step of the language model: cross-entropy of every code, given class and earlier codes (equation 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.generator.config import LanguageModelConfig
from model.generator.lm import LanguageModel
from training.distributed import Ranks
from training.generator.step import GeneratorStep
from training.generator.token_dataset import CodeBatch
from training.recipes import GeneratorStage


class LanguageModelStep(GeneratorStep[LanguageModel]):
    """Training of a language model on images and clips; a clip's sequence begins as its first picture's does.

    Args:
        network, stage, seed, ranks: as for `GeneratorStep`; the network has a null class.
    """

    def __init__(self, network: LanguageModel, stage: GeneratorStage, seed: int, ranks: Ranks | None = None) -> None:
        super().__init__(network, stage, seed, ranks)
        classes = [*range(network.config.classes), None]
        self.prefixes = torch.tensor([network.config.prefix_ids(label).ids for label in classes], device=self.device)

    @property
    def config(self) -> LanguageModelConfig:
        """Return the network's config."""
        return self.network.config

    def losses(self, network: LanguageModel, batch: CodeBatch, first: int) -> dict[str, Tensor]:
        """Return the mean cross-entropy of codes in nats."""
        ids = batch.codes.flatten(1) + self.config.code_offset
        prefix = self.prefixes[batch.labels]
        logits = network(torch.cat((prefix, ids[:, :-1]), dim=1))[:, prefix.shape[1] - 1 :]
        return {"loss": F.cross_entropy(logits.flatten(0, 1), ids.flatten())}
