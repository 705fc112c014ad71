"""The networks and their weights on disk; nothing of HTTP or training."""

from model.bundle import Bundle, BundleError, load_bundle, save_bundle
from model.convert.omnitokenizer import ConversionError, ConversionReport, convert_checkpoint, load_published
from model.inference import BATCHES, CompiledTokenizer
from model.tokenizer.config import CONFIGS, ConfigError, TokenizerConfig, VAEConfig, VQConfig
from model.tokenizer.heads import VAEHead, VQHead
from model.tokenizer.patches import PixelError
from model.tokenizer.streaming import DecoderState, EncoderState, StreamError
from model.tokenizer.tokenizer import CodeError, OmniTokenizer

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
