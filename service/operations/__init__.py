"""Use cases, one module each, without HTTP, torch or Ray."""
