"""The network of each kind of generator."""

from __future__ import annotations

from model.generator.config import GeneratorConfig, LanguageModelConfig
from model.generator.dit import DiT
from model.generator.lm import LanguageModel

Generator = LanguageModel | DiT


def make_generator(config: GeneratorConfig) -> Generator:
    """Return the network of a config, with fresh weights."""
    return LanguageModel(config) if isinstance(config, LanguageModelConfig) else DiT(config)
