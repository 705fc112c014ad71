"""Ranges of the settings of sampling, which configs of bundles, engines and callers share."""

MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 100  # below it logits overflow; 0 itself takes the likeliest token
MAX_TOP_K = 2**20
MAX_GUIDANCE = 100  # and of its growth
MAX_SEED = 2**63 - 1
MIN_TIMESTEPS = 21  # fewer would need a variance above 1 (noise_schedule)
