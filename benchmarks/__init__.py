"""What is timed; never a test."""
