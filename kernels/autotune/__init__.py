"""Tiles of the kernels by GPU: the table, the search, the command `omnitok tune`."""
