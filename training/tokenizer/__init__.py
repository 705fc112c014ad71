"""The training of a tokenizer: its state and step, losses, codebook, discriminators and change of head."""
