"""Feature extractors of losses and metrics."""
