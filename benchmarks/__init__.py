"""Timed tables; never a test."""
