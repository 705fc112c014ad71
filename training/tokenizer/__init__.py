"""The training step of a tokenizer and its codebook."""
