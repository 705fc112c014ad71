"""The tokenizer as a service runs it: merged weights, fused kernels, captured graphs; the same interface."""

from model.compiled.tokenizer import BATCHES, CompiledTokenizer

__all__ = ["BATCHES", "CompiledTokenizer"]
