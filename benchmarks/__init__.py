"""Timed tables; never tests."""
