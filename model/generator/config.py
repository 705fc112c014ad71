"""Frozen configs of generators, their checks, and the table of named ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

from model.config_checks import MAX_LAYERS, ConfigError, check_counts, check_grid, check_number, strict
from model.generator.diffusion_config import DIFFUSION_CONFIGS, DiffusionConfig
from model.generator.limits import MAX_GUIDANCE, MAX_TEMPERATURE, MAX_TOP_K, MIN_TEMPERATURE

Prefix = Literal["none", "class", "sos_class", "class_sos"]
Guidance = Literal["null", "sos", "none"]


class RowPrefix(NamedTuple):
    """The tokens of one decoded sequence that precede its codes.

    Args:
        ids: vocabulary ids.
        positions: indices of their learned positions.
        next_position: index of the first code's position; each further code adds one.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    next_position: int


@dataclass(frozen=True)
class SamplingDefaults:
    """Settings of sampling by a language model where a request names none.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: keep the k likeliest ids and all that equal the last; 0 keeps all.
        top_p: keep the likeliest ids up to the first that brings their mass above p; 1 keeps all.
        guidance: s in uncond + s (cond - uncond); 1 is none.
        guidance_growth: s - 1 grows by this share of itself at each step. With 1 it is proportional to the number of
            the token, as the published sampler's option has it.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    guidance_growth: float = 0.0

    def __post_init__(self) -> None:
        if self.temperature != 0:
            check_number(self, "temperature", MIN_TEMPERATURE, MAX_TEMPERATURE)
        check_counts(self, ("top_k",), least=0, most=MAX_TOP_K)
        check_number(self, "top_p", 0, 1)
        check_number(self, "guidance", 0, MAX_GUIDANCE)
        check_number(self, "guidance_growth", 0, MAX_GUIDANCE)
        if self.top_p == 0:
            raise ConfigError("top_p must be over 0; a small value leaves the likeliest code alone.")


@dataclass(frozen=True)
class LanguageModelConfig:
    """Sizes and vocabulary of a language model over the codes of a VQ tokenizer (section 3.2; docs/model.md).

    Args:
        layers, width, heads: of the transformer.
        codes: codebook size of the tokenizer.
        classes: number of classes; 0 for an unconditional model.
        null_class: one more id for samples of any class, trained by dropping labels. It needs `prefix = "class"`.
        prefix: tokens before the codes: "none", "class", or "sos_class" and "class_sos" as in released files.
        positions: learned positions; no longer sequence can enter.
        grid: latent frames, rows and columns that the model was trained for.
        sampling: defaults of its sampling.
    """

    layers: int
    width: int
    heads: int
    codes: int
    classes: int
    null_class: bool
    prefix: Prefix
    positions: int
    grid: tuple[int, int, int]
    sampling: SamplingDefaults = SamplingDefaults()

    def __post_init__(self) -> None:
        check_counts(self, ("layers",), most=MAX_LAYERS)
        check_counts(self, ("width", "heads", "positions"))
        check_counts(self, ("codes",), least=2)
        check_counts(self, ("classes",), least=0)
        if self.width % self.heads:
            raise ConfigError(f"width={self.width} must be a multiple of heads={self.heads}.")
        if type(self.null_class) is not bool:
            raise ConfigError(f"null_class must be true or false, not {self.null_class!r}.")
        if self.prefix not in get_args(Prefix):
            raise ConfigError(f"prefix must be one of {', '.join(get_args(Prefix))}, not {self.prefix!r}.")
        if (self.prefix == "none") != (self.classes == 0):
            raise ConfigError(f"prefix={self.prefix!r} does not fit {self.classes} classes; 'none' is for 0 classes.")
        if self.null_class and self.prefix != "class":
            raise ConfigError(f"null_class needs prefix 'class', not {self.prefix!r}.")
        check_grid(self.grid)
        if not isinstance(self.sampling, SamplingDefaults):
            raise ConfigError(f"sampling must be SamplingDefaults, not {self.sampling!r}.")
        if self.sampling.guidance != 1 and self.guidance == "none":
            raise ConfigError(f"guidance={self.sampling.guidance} needs a model with an unconditional stream.")
        if (fed := self.sequence_length(self.grid[0]) - 1) > self.positions:
            raise ConfigError(f"{self.positions} positions are too few for {fed} tokens of grid {self.grid}.")

    @property
    def head_dim(self) -> int:
        """Return the width of one attention head."""
        return self.width // self.heads

    @property
    def has_sos(self) -> bool:
        """Return whether sequences hold a start token."""
        return self.prefix in ("sos_class", "class_sos")

    @property
    def code_offset(self) -> int:
        """Return the vocabulary id of code 0; code z has this id plus z."""
        return self.has_sos + self.classes + self.null_class

    @property
    def vocabulary(self) -> int:
        """Return the number of ids: start, classes, null class, codes."""
        return self.code_offset + self.codes

    @property
    def prefix_length(self) -> int:
        """Return the number of tokens before the first code."""
        return {"none": 0, "class": 1}.get(self.prefix, 2)

    @property
    def guidance(self) -> Guidance:
        """Return the kind of the unconditional stream: a null class, the start token alone, or none."""
        if self.has_sos:
            return "sos"
        return "null" if self.null_class else "none"

    @property
    def masks_prefix_ids(self) -> bool:
        """Return whether sampling excludes ids below the codes; files with a start token were sampled without."""
        return not self.has_sos

    def prefix_ids(self, class_id: int | None) -> RowPrefix:
        """Return the prefix of a sequence of a class.

        Args:
            class_id: from 0 to classes - 1; None for an unconditional model, and for the null class of one that has it.

        Raises:
            ValueError: the model has no such class.
        """
        if class_id is None and self.null_class:
            class_id = self.classes
        elif class_id is None and self.prefix == "none":
            return RowPrefix((), (), 0)
        elif class_id is None or not 0 <= class_id < self.classes:
            raise ValueError(f"Class {class_id} is none of the {self.classes} classes of this model.")
        label = self.has_sos + class_id
        ids = {"class": (label,), "sos_class": (0, label), "class_sos": (label, 0)}[self.prefix]
        return RowPrefix(ids, tuple(range(len(ids))), len(ids))

    def unconditional_prefix_ids(self) -> RowPrefix:
        """Return the prefix of the unconditional stream that guidance pairs with a conditional one.

        Raises:
            ValueError: the model has no such stream.
        """
        if self.guidance == "sos":  # published rule: one token fewer, codes at the positions of the other stream
            return RowPrefix((0,), (0,), self.prefix_length)
        if self.guidance == "none":
            raise ValueError("This model has no unconditional stream: sample it with guidance 1.")
        return self.prefix_ids(None)

    def sequence_length(self, frames: int) -> int:
        """Return the tokens of a sequence of so many latent frames, prefix included; the last is never fed."""
        return self.prefix_length + frames * self.grid[1] * self.grid[2]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data; `generator_config` reads it back."""
        return {"kind": "lm"} | asdict(self) | {"grid": list(self.grid)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LanguageModelConfig:
        """Build a config from JSON data, without its kind.

        Raises:
            ConfigError: unknown or missing keys, or values that describe no model.
        """
        values = strict(cls, data)
        if isinstance(values.get("grid"), list):
            values["grid"] = tuple(values["grid"])
        if "sampling" in values:
            values["sampling"] = SamplingDefaults(**strict(SamplingDefaults, values["sampling"]))
        try:
            return cls(**values)
        except TypeError as error:  # a key without default is missing
            raise ConfigError(f"LanguageModelConfig: {error}") from error


GeneratorConfig = LanguageModelConfig | DiffusionConfig

KINDS: dict[str, type[LanguageModelConfig] | type[DiffusionConfig]] = {
    "lm": LanguageModelConfig,
    "diffusion": DiffusionConfig,
}


def generator_config(data: object) -> GeneratorConfig:
    """Build the config of a generator of any kind from JSON data that names its kind.

    Raises:
        ConfigError: an unknown kind, or data that do not describe one.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"A generator's config must be a mapping, not {type(data).__name__}.")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"A generator's kind must be one of {sorted(KINDS)}, not {kind!r}.")
    return KINDS[kind].from_dict({key: value for key, value in data.items() if key != "kind"})


_published = LanguageModelConfig(
    layers=24,
    width=1536,
    heads=16,
    codes=8192,
    classes=1000,
    null_class=False,
    prefix="class_sos",
    positions=1025,
    grid=(1, 32, 32),
    sampling=SamplingDefaults(top_k=2048, guidance=2.5),
)

LANGUAGE_MODELS: dict[str, LanguageModelConfig] = {
    # as released for ImageNet at 256 x 256
    "lm-650m": _published,
    # the smaller kind of the paper (section 4.2)
    "lm-227m": replace(_published, layers=18, width=1024),
    # images and clips of the demo tokenizer at 128 x 128, in half precision under 32 MB
    "lm-demo": LanguageModelConfig(
        layers=12,
        width=256,
        heads=4,
        codes=8192,
        classes=16,
        null_class=True,
        prefix="class",
        positions=1280,
        grid=(5, 16, 16),
        sampling=SamplingDefaults(top_k=64),  # the best of the curve on the card of bundles/demo-lm
    ),
    # milliseconds on a CPU; for tests
    "lm-debug": LanguageModelConfig(
        layers=2,
        width=32,
        heads=2,
        codes=64,
        classes=4,
        null_class=True,
        prefix="class",
        positions=80,
        grid=(5, 4, 4),
        sampling=SamplingDefaults(guidance=1.5),
    ),
}

GENERATOR_CONFIGS: dict[str, GeneratorConfig] = {**LANGUAGE_MODELS, **DIFFUSION_CONFIGS}
