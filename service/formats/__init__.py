"""Results and plain values as bytes and back, one module a format."""
