"""The networks and their weights on disk, without HTTP or training; import from its modules."""
