"""Frozen tokenizer configs, their checks, and the table of named ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from model.config_checks import MAX_LAYERS, ConfigError, check_counts, strict
from model.geometry import Geometry


@dataclass(frozen=True)
class VQConfig:
    """The discrete head: factorised codes looked up by nearest distance.

    Args:
        codes: codebook size.
        dim: width of a code.
    """

    codes: int = 8192
    dim: int = 8

    def __post_init__(self) -> None:
        check_counts(self, ("codes",), least=2)
        check_counts(self, ("dim",))


@dataclass(frozen=True)
class VAEConfig:
    """The continuous head: a diagonal Gaussian per latent position.

    Args:
        dim: channels of a latent.
    """

    dim: int = 8

    def __post_init__(self) -> None:
        check_counts(self, ("dim",))


@dataclass(frozen=True)
class TokenizerConfig:
    """Geometry of an encoder, a decoder and the head between them (section 3.1.1; docs/model.md, Tokenizer).

    Args:
        width: channels of a token inside the network.
        heads, head_dim: attention heads and their width.
        patch, temporal_patch: pixels and frames per latent position; the first frame has one of its own.
        patch_norm: normalise each patch before it is embedded, as the published model does. That takes away its
            mean and contrast, which no later layer can know: the same network reconstructs far better without it.
        encoder_blocks, decoder_blocks: one letter per spatial layer: "t" full attention, "w" window attention.
        temporal_layers: temporal layers in the encoder and again in the decoder.
        window: side of an attention window, in tokens.
        spatial_position: "rope", or "rel" (a learned bias where `additive_bias` says so, else none).
        additive_bias: add the learned spatial bias ("rel" layers) and linear temporal penalties, as files trained
            without fused attention need.
        temporal_order: "causal", or "published" for released weights, whose temporal positional convolution
            reads scrambled memory and sees later frames.
        causal_attention, causal_peg: whether temporal attention and positional convolutions see only the past.
        temporal_window: latent frames that a frame attends to, itself included; None for all.
        head: VQ or VAE.
    """

    width: int = 512
    heads: int = 8
    head_dim: int = 64
    patch: int = 8
    temporal_patch: int = 4
    patch_norm: bool = True
    encoder_blocks: str = "ttww"
    decoder_blocks: str = "tttt"
    temporal_layers: int = 4
    window: int = 8
    spatial_position: Literal["rope", "rel"] = "rope"
    additive_bias: bool = False
    temporal_order: Literal["causal", "published"] = "causal"
    causal_attention: bool = True
    causal_peg: bool = True
    temporal_window: int | None = None
    head: VQConfig | VAEConfig = VQConfig()

    def __post_init__(self) -> None:
        check_counts(self, ("width", "heads", "head_dim", "patch", "temporal_patch", "window"))
        check_counts(self, ("temporal_layers",), most=MAX_LAYERS)
        for name in ("patch_norm", "additive_bias", "causal_attention", "causal_peg"):
            if type(getattr(self, name)) is not bool:
                raise ConfigError(f"{name} must be true or false, not {getattr(self, name)!r}.")
        for name in ("encoder_blocks", "decoder_blocks"):
            blocks = getattr(self, name)
            if not isinstance(blocks, str) or not 1 <= len(blocks) <= MAX_LAYERS or set(blocks) - set("tw"):
                raise ConfigError(f"{name} must be 1 to {MAX_LAYERS} letters 't' and 'w', not {blocks!r}.")
        if self.spatial_position not in ("rope", "rel"):
            raise ConfigError(f"spatial_position must be 'rope' or 'rel', not {self.spatial_position!r}.")
        if self.temporal_order not in ("causal", "published"):
            raise ConfigError(f"temporal_order must be 'causal' or 'published', not {self.temporal_order!r}.")
        if self.spatial_position == "rope" and self.head_dim % 4:
            raise ConfigError(f"Rotary positions need a head_dim divisible by 4, not {self.head_dim}.")
        if self.temporal_window is not None:
            check_counts(self, ("temporal_window",))
            if not self.causal_attention:
                raise ConfigError(f"temporal_window={self.temporal_window} needs causal_attention.")
        if not isinstance(self.head, VQConfig | VAEConfig):
            raise ConfigError(f"head must be a VQConfig or a VAEConfig, not {self.head!r}.")

    @property
    def is_vq(self) -> bool:
        """Return whether codes are discrete tokens."""
        return isinstance(self.head, VQConfig)

    @property
    def streams(self) -> bool:
        """Return whether clips can be encoded in chunks: nothing may see later frames."""
        return self.temporal_order == "causal" and self.causal_attention and self.causal_peg

    @property
    def feed_forward(self) -> int:
        """Return the inner width of the feed-forward layers: two thirds of four times the width, rounded down."""
        return int(4 * (2 / 3) * self.width)

    @property
    def geometry(self) -> Geometry:
        """Return the correspondence of pixels and latent positions."""
        return Geometry(self.patch, self.temporal_patch)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data; `from_dict` reads it back."""
        data = asdict(self)
        data["head"] = {"kind": "vq" if self.is_vq else "vae"} | data["head"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TokenizerConfig:
        """Build a config from JSON data.

        Raises:
            ConfigError: unknown keys, or values that describe no tokenizer.
        """
        values = strict(cls, data)
        if "head" in values:
            if not isinstance(values["head"], Mapping):
                raise ConfigError(f"head must be a mapping, not {values['head']!r}.")
            head = dict(values["head"])
            heads: dict[Any, type[VQConfig] | type[VAEConfig]] = {"vq": VQConfig, "vae": VAEConfig}
            kind = head.pop("kind", None)
            if not isinstance(kind, str) or kind not in heads:
                raise ConfigError(f"head.kind must be 'vq' or 'vae', not {kind!r}.")
            values["head"] = heads[kind](**strict(heads[kind], head))
        return cls(**values)


_published = TokenizerConfig(temporal_order="published")
_demo = replace(_published, width=256, heads=4, patch_norm=False, temporal_order="causal", temporal_window=5)
_debug = TokenizerConfig(
    width=32,
    heads=2,
    head_dim=16,
    patch_norm=False,
    encoder_blocks="tw",
    decoder_blocks="wt",
    temporal_layers=1,
    window=4,
    temporal_window=3,
    head=VQConfig(codes=64, dim=4),
)

CONFIGS: dict[str, TokenizerConfig] = {
    # as released: full attention in half of the encoder and all of the decoder, scrambled temporal positions
    "published": _published,
    # as the paper's text says (section 4): window attention in every spatial layer, causal in time
    "paper": TokenizerConfig(encoder_blocks="wwww", decoder_blocks="wwww"),
    # half the width, patches embedded as they are, truly causal; a window in time lets any clip stream
    "demo": _demo,
    # four times as many codes for a picture: narrow and mostly windows, to stay quick on two cores, with one full layer
    # that joins the windows before the last one draws
    "demo-fine": replace(
        _demo, width=192, heads=3, patch=4, encoder_blocks="www", decoder_blocks="wwtw", temporal_layers=2
    ),
    # milliseconds on a CPU; for tests
    "debug": _debug,
}
