"""Scripts that train the demo bundles on a host of two GPUs."""
