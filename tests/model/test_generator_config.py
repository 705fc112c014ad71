"""Configs of language models describe one or are refused with the offending value."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.config_checks import ConfigError
from model.generator.config import GENERATOR_CONFIGS, LANGUAGE_MODELS, RowPrefix, SamplingDefaults, generator_config
from model.generator.diffusion_config import DIFFUSION_CONFIGS
from model.generator.lm import LanguageModel

DEBUG = LANGUAGE_MODELS["lm-debug"]


@pytest.mark.parametrize("name", GENERATOR_CONFIGS)
def test_named_configs_survive_json(name: str) -> None:
    config = GENERATOR_CONFIGS[name]
    assert generator_config(json.loads(json.dumps(config.to_dict()))) == config


def test_what_earlier_bundles_do_not_state_is_written_only_where_it_is_not_so() -> None:
    """Or a bundle that is made again of the same weights would have another hash."""
    written = {name: config.to_dict().get("images") for name, config in DIFFUSION_CONFIGS.items()}
    assert written == dict.fromkeys(DIFFUSION_CONFIGS) | {"latte-xl/2": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers must be an integer from 1 to 64"),
        ({"layers": 65}, "layers must be an integer from 1 to 64"),
        ({"width": 2.5}, "width must be an integer"),
        ({"heads": 3}, "width=32 must be a multiple of heads=3"),
        ({"codes": 1}, "codes must be an integer from 2"),
        ({"classes": -1}, "classes must be an integer from 0"),
        ({"classes": 0}, "does not fit 0 classes"),
        ({"prefix": "none"}, "does not fit 4 classes"),
        ({"prefix": "label"}, "prefix must be one of none, class, sos_class, class_sos"),
        ({"prefix": ["class"]}, "prefix must be one of"),
        ({"prefix": "class_sos", "positions": 100}, "null_class needs prefix 'class'"),
        ({"null_class": 1}, "null_class must be true or false"),
        ({"null_class": False}, "guidance=1.5 needs a model with an unconditional stream"),
        ({"positions": 79}, r"79 positions are too few for 80 tokens of grid \(5, 4, 4\)"),
        ({"grid": [5, 4]}, "grid must be three integers"),
        ({"grid": [5, 4, 0]}, "grid must be three integers"),
        ({"grid": "5x4"}, "grid must be three integers"),
        ({"kind": "gan"}, "kind must be one of"),
        ({"kind": ["lm"]}, "kind must be one of"),
        ({"colour": "red"}, r"Unknown LanguageModelConfig keys \['colour'\]"),
        ({"sampling": 3}, "SamplingDefaults must be a mapping"),
        ({"sampling": {"beam": 4}}, r"Unknown SamplingDefaults keys \['beam'\]"),
        ({"sampling": {"temperature": -1}}, "temperature must be a number from 0.001"),
        ({"sampling": {"temperature": 1e-5}}, "temperature must be a number from 0.001"),
        ({"sampling": {"temperature": float("nan")}}, "temperature must be a number"),
        ({"sampling": {"top_k": 1.5}}, "top_k must be an integer from 0"),
        ({"sampling": {"top_p": 0}}, "top_p must be over 0"),
        ({"sampling": {"top_p": 1.1}}, "top_p must be a number from 0 to 1"),
        ({"sampling": {"guidance": True}}, "guidance must be a number"),
        ({"sampling": {"guidance_growth": -1}}, "guidance_growth must be a number"),
    ],
)
def test_nonsense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        generator_config(DEBUG.to_dict() | change)


def test_a_missing_key_is_named() -> None:
    data = DEBUG.to_dict()
    del data["width"]
    with pytest.raises(ConfigError, match="'width'"):
        generator_config(data)
    with pytest.raises(ConfigError, match="must be a mapping, not list"):
        generator_config([])


def test_published_vocabulary() -> None:
    """Start token 0, class c at c + 1, code z at z + classes + 1."""
    config = LANGUAGE_MODELS["lm-650m"]
    assert (config.vocabulary, config.code_offset, config.prefix_length) == (9193, 1001, 2)
    assert config.prefix_ids(999) == RowPrefix((1000, 0), (0, 1), 2)
    assert replace(config, prefix="sos_class").prefix_ids(0) == RowPrefix((0, 1), (0, 1), 2)
    assert config.unconditional_prefix_ids() == RowPrefix((0,), (0,), 2)
    assert (config.guidance, config.masks_prefix_ids) == ("sos", False)


def test_vocabulary_with_a_null_class() -> None:
    """Class c at c, the null class after them, code z at z + classes + 1."""
    assert (DEBUG.vocabulary, DEBUG.code_offset, DEBUG.prefix_length) == (69, 5, 1)
    assert DEBUG.prefix_ids(3) == RowPrefix((3,), (0,), 1)
    assert DEBUG.prefix_ids(None) == DEBUG.unconditional_prefix_ids() == RowPrefix((4,), (0,), 1)
    assert (DEBUG.guidance, DEBUG.masks_prefix_ids) == ("null", True)


def test_vocabulary_without_classes() -> None:
    config = replace(DEBUG, prefix="none", classes=0, null_class=False, positions=79, sampling=SamplingDefaults())
    assert (config.vocabulary, config.code_offset, config.guidance) == (64, 0, "none")
    assert config.prefix_ids(None) == RowPrefix((), (), 0)
    with pytest.raises(ValueError, match="no unconditional stream"):
        config.unconditional_prefix_ids()


@pytest.mark.parametrize("class_id", [-1, 4])
def test_unknown_classes_are_refused(class_id: int) -> None:
    with pytest.raises(ValueError, match=f"Class {class_id} is none of the 4 classes"):
        DEBUG.prefix_ids(class_id)


def test_a_class_is_needed_where_there_is_no_null_class() -> None:
    with pytest.raises(ValueError, match="Class None"):
        LANGUAGE_MODELS["lm-650m"].prefix_ids(None)


@pytest.mark.parametrize(
    ("name", "layers", "width", "head_dim", "low", "high"),
    [
        ("lm-650m", 24, 1536, 96, 650e6, 720e6),
        ("lm-227m", 18, 1024, 64, 220e6, 250e6),
        ("lm-demo", 12, 256, 64, 12e6, 15e6),
        ("lm-debug", 2, 32, 16, 1e4, 1e5),
    ],
)
def test_sizes_of_named_models(name: str, layers: int, width: int, head_dim: int, low: float, high: float) -> None:
    config = LANGUAGE_MODELS[name]
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in LanguageModel(config).parameters())
    assert (config.layers, config.width, config.head_dim) == (layers, width, head_dim)
    assert low <= count <= high


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_sequence_of_the_grid_fits_and_no_more(name: str) -> None:
    config = LANGUAGE_MODELS[name]
    assert config.sequence_length(config.grid[0]) - 1 == config.positions
