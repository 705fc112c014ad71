"""Encoded data sets on disk: shards of tokens or latents with keys and labels, written by the service, read by all."""
