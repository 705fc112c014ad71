"""The tokenizer as a service runs it: merged weights, fused kernels, captured graphs; the same interface."""

from model.inference.tokenizer import BATCHES, CompiledTokenizer

__all__ = ["BATCHES", "CompiledTokenizer"]
