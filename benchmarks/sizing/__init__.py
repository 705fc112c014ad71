"""Simulation of the autoscaling policy against loads that change."""
