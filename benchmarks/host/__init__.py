"""All measurements of a GPU host in one call, within a time."""
