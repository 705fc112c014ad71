"""Published checkpoints to bundles; nothing that a checkpoint holds is executed."""
