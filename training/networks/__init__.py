"""Networks that judge reconstructions: discriminators of training, feature extractors of losses and metrics."""
