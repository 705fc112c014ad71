"""The tokenizer as a service runs it: merged weights, fused kernels, captured graphs; the same interface."""
