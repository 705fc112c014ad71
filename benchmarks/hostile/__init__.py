"""Damaged and hostile input, made from a seed, for the sandbox and for a running service."""
