"""Scripts that train the demo bundles on a host of one or two GPUs."""
