"""Faults of a running service, and the alerts that a real Prometheus raises for them."""
