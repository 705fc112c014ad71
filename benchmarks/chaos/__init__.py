"""Kills, updates and changes of scale under load, with what callers saw of each."""
