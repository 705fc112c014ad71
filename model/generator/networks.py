"""The network of each kind of generator."""

from __future__ import annotations

from model.generator.config import GeneratorConfig
from model.generator.lm import LanguageModel

Generator = LanguageModel


def make_generator(config: GeneratorConfig) -> Generator:
    """Return the network of a config, with fresh weights."""
    return LanguageModel(config)
