"""Hours of gentle mixed load, with the memory of every process."""
