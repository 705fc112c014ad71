"""Whole data sets to tokens or latents: Ray Data over actors that hold the tokenizer and read files in processes."""
