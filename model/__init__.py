"""The networks and their weights on disk; nothing of HTTP or training."""

from model.bundle import Bundle, BundleError, load_bundle, save_bundle
from model.compiled import BATCHES, CompiledTokenizer
from model.config import CONFIGS, ConfigError, TokenizerConfig, VAEConfig, VQConfig
from model.heads import VAEHead, VQHead
from model.pixels import PixelError
from model.published import ConversionError, ConversionReport, convert_checkpoint, load_published
from model.streaming import DecoderState, EncoderState, StreamError
from model.tokenizer import CodeError, OmniTokenizer

__all__ = [
    "BATCHES",
    "CONFIGS",
    "Bundle",
    "BundleError",
    "CodeError",
    "CompiledTokenizer",
    "ConfigError",
    "ConversionError",
    "ConversionReport",
    "DecoderState",
    "EncoderState",
    "OmniTokenizer",
    "PixelError",
    "StreamError",
    "TokenizerConfig",
    "VAEConfig",
    "VAEHead",
    "VQConfig",
    "VQHead",
    "convert_checkpoint",
    "load_bundle",
    "load_published",
    "save_bundle",
]
