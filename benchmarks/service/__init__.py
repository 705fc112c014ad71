"""Open-loop and closed-loop load on a running service, and baselines to compare it with."""
